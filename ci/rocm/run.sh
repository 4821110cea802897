#!/usr/bin/env bash
# The one entry point for AMD GPUs: proves what it can, and leaves reports, logs and one JSON in OUT.
#
#   OUT=out ci/rocm/run.sh                on a machine with a GPU: the kit, certified, a server, its speed
#   OUT=out ci/rocm/run.sh --no-device    anywhere: every Triton kernel compiled for five architectures of
#                                         AMD's and four of NVIDIA's, core's and AITER's kernels interpreted
#                                         against the references, AITER's signatures, whole steps, and the
#                                         kit on the interpreted backend
#
# With a GPU, PYTHON is that of an environment that has torch's build for ROCm; Tupelo's packages are
# installed into it, AITER with them unless AITER=0. Without one, PYTHON is any 3.11 to 3.13, and the
# environment is made in ROCM_VENV (default: a temporary folder; 2 GB with torch's build for CPUs).
# MODEL: what is served (default: Tupelo's demo model), on PORT (default: 30000).
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${OUT:-$PWD/out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
failed=()
part() { # NAME COMMAND...
    local name=$1
    shift
    echo "run.sh: $name"
    "$@" >"$out/$name.log" 2>&1 || failed+=("$name")
    tail -n 3 "$out/$name.log"
}
serve() { # serve the model, ask for a reply, measure
    local url=http://127.0.0.1:${PORT:-30000} server status=0
    "$python" -m tupelo serve ${MODEL:+"$MODEL"} --backend rocm --port "${PORT:-30000}" &
    server=$!
    until curl --silent --fail "$url/ready"; do
        kill -0 "$server" || return 1
        sleep 1
    done
    curl --silent --fail-with-body "$url/v1/chat/completions" -H 'Content-Type: application/json' \
        -d '{"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 16}' &&
        "$python" -m tupelo bench --url "$url" --num-requests 16 --json "$out/bench.json" || status=1
    kill -INT "$server"
    wait "$server" || status=1
    return $status
}
interpreted() {
    TRITON_INTERPRET=1 PYTHONPATH="$root/ci/rocm:$root" "$python" -W ignore "$@"
}

if [ "${1:-}" != --no-device ]; then
    vendor="[vendor]"
    [ "${AITER:-1}" = 1 ] || vendor=
    "$python" -m pip install --quiet "./packages/core[conformance]" "./packages/backend-rocm$vendor" \
        ./packages/server
    part doctor "$python" -m tupelo doctor
    part kit "$python" -m tupelo.conformance --backend rocm --profile certified --report "$out/kit" -v
    part serve serve
else
    venv=${ROCM_VENV:-$(mktemp -d)}
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    python=$venv/bin/python
    install() { "$python" -m pip install --quiet --quiet -c ci/constraints-cpu.txt "$@"; }
    install torch # alone and first: then nothing else asks for a build for accelerators
    install "triton==3.9.0" "./packages/core[conformance]" ./packages/backend-cpu \
        "./packages/backend-rocm[vendor]" pytest pytest-timeout pytest-asyncio
    part compile env PYTHONPATH="$root" "$python" -W ignore ci/rocm/compile.py "$out/compile.json"
    # AITER's signatures and kernels, core's kernels, whole steps of decoders.
    part tests "$python" -m pytest -q tests/unit/rocm tests/unit/triton tests/unit/graphs \
        --deselect tests/unit/triton/test_compile.py --junit-xml "$out/tests.xml"
    part kit interpreted -m tupelo.conformance --backend interpreted:backend --level 0,1,2,3 \
        --report "$out/kit" -v
fi
"$python" ci/rocm/summary.py "$out" "${failed[@]}"
