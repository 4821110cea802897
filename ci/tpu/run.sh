#!/usr/bin/env bash
# The one entry point for TPUs; ci/pipeline.sh tells what all pipelines have in common.
#
#   OUT=out ci/tpu/run.sh                on a machine with a TPU
#   OUT=out ci/tpu/run.sh --no-device    anywhere: the kit on XLA's CPU device through torch-xla, no
#                                        late compilation over 200 requests, a second start that
#                                        finds all programs of the first on disk, the Pallas kernel
#                                        interpreted, the steps of decoders compiled ahead of time
#                                        for v5e, v6e and v7x, and whole steps through TorchTPU's
#                                        device up to its compiler, which takes a chip
#
# Never part of .ci/run: torch-xla's environment takes 7 GB, and everything about an hour on two cores.
# Environments: xla (torch-xla, so PYTHON is 3.11), jax and torchtpu (TorchTPU).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"
PYTHON=${PYTHON:-python3.11}
pipeline tpu "$@"

if [ -z "$no_device" ]; then
    environment xla "packages/core[conformance]" "packages/backend-tpu[vendor]" packages/server
    on_device
else
    # JAX of its own: the libtpu that torch-xla 2.9 names does not know v7x.
    environment jax "jax==0.10.2" "libtpu==0.0.52"
    jax=$python
    # TorchTPU of its own: it goes with another torch.
    environment torchtpu packages/core "packages/backend-tpu[torchtpu]"
    torchtpu=$python
    environment xla "packages/core[conformance]" "packages/backend-tpu[vendor]"
    export PJRT_DEVICE=CPU TUPELO_OFFLINE=1
    part doctor "$python" -m tupelo doctor
    part kit "$python" -m tupelo.conformance --backend tpu --level 0,1,2,3 --report "$out/kit" -v \
        "${kit_arguments[@]}"
    part sweep "$python" ci/tpu/sweep.py "$out/sweep.json"
    part cache "$python" ci/tpu/cache.py "$out/cache.json"
    part interpret "$python" ci/tpu/interpret.py "$out/interpret.json"
    part lower "$python" ci/tpu/lower.py "$out/hlo"
    part aot "$jax" ci/tpu/aot.py "$out/hlo" "$out/aot.json"
    part torchtpu "$torchtpu" ci/tpu/torchtpu.py "$out/torchtpu.json"
fi
finish
