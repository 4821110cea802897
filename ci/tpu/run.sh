#!/usr/bin/env bash
# The one entry point for TPUs: makes its environments, proves what it can, writes one JSON.
#
#   OUT=out ci/tpu/run.sh                on a machine with a TPU: the kit on the chip
#   OUT=out ci/tpu/run.sh --no-device    anywhere: the kit on XLA's CPU device through torch-xla, no
#                                        late compilation over 200 requests, the Pallas kernel
#                                        interpreted, and the steps of decoders compiled ahead of time
#                                        for v5e, v6e and v7x
#
# Never part of .ci/run: torch-xla's environment takes 7 GB, and everything about an hour on two cores.
# TPU_VENVS (default: a temporary folder) keeps the environments. PYTHON: 3.11.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-$PWD/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
venvs=${TPU_VENVS:-$(mktemp -d)}
python=${PYTHON:-python3.11}

make_venv() { # NAME REQUIREMENT...
    local venv=$venvs/$1
    shift
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --quiet "$@"
}
make_venv xla "$root/packages/core[conformance]" "$root/packages/backend-tpu[vendor]"
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TUPELO_OFFLINE=1
xla=$venvs/xla/bin/python
failed=()
part() { # NAME COMMAND...
    local name=$1
    shift
    echo "run.sh: $name"
    "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
}

if [ "${1:-}" != --no-device ]; then
    part kit "$xla" -m tupelo.conformance --backend tpu --report "$out/kit" -v
else
    export PJRT_DEVICE=CPU
    # JAX of its own: the libtpu that torch-xla 2.9 names does not know v7x.
    make_venv jax "jax==0.10.2" "libtpu==0.0.52"
    part kit "$xla" -m tupelo.conformance --backend tpu --level 0,1,2,3 --report "$out/kit" -v
    part sweep "$xla" ci/tpu/sweep.py "$out/sweep.json"
    part interpret "$xla" ci/tpu/interpret.py "$out/interpret.json"
    part lower "$xla" ci/tpu/lower.py "$out/hlo"
    part aot "$venvs/jax/bin/python" ci/tpu/aot.py "$out/hlo" "$out/aot.json"
fi
"$xla" ci/tpu/summary.py "$out" "${failed[@]}"
