#!/usr/bin/env bash
# The one entry point for Ascend NPUs; ci/pipeline.sh tells what all pipelines have in common.
#
#   OUT=out ci/npu/run.sh                on a machine with an NPU, CANN's set_env.sh sourced
#   OUT=out ci/npu/run.sh --no-device    anywhere: torch-npu's own schemas bind every call, whole steps
#                                        of decoders on fake NPU tensors, the kit over stand-ins of
#                                        torch-npu's operators by their documentation, and core's Triton
#                                        kernels through bishengir-compile up to CANN's step
#
# Environments: npu (torch-npu with its torch, 1.5 GB) and triton (triton-ascend, 1.5 GB; PYTHON is 3.11).
# Without CANN, torch-npu loads over link stubs that gcc makes here; nothing of it can compute. The
# parts take about six minutes on two cores, and 1.3 GB.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"
PYTHON=${PYTHON:-python3.11}
pipeline npu "$@"

if [ -z "$no_device" ]; then
    environment npu "packages/core[conformance]" "packages/backend-npu[vendor]" packages/server
    on_device
else
    # Each torch for CPUs first: then nothing asks for a build for other accelerators.
    environment triton -c ci/constraints-cpu.txt torch "triton-ascend==3.2.0" "ascendnpu-ir==1.2.0" \
        pybind11 packages/core packages/backend-npu
    triton=$python
    environment npu -c ci/constraints-cpu.txt torch "torch-npu==2.13.0" pyyaml pytest pytest-timeout \
        pytest-asyncio "packages/core[conformance]" packages/backend-cpu packages/backend-npu
    export TORCH_DEVICE_BACKEND_AUTOLOAD=0 TUPELO_OFFLINE=1 PYTHONPATH="$root:$root/ci/npu"
    part stubs "$python" ci/npu/stubs.py "$out/stubs"
    over_stubs() { LD_LIBRARY_PATH="$out/stubs" "$python" -W ignore "$@"; }
    part doctor "$python" -m tupelo doctor
    part steps over_stubs ci/npu/fake_steps.py "$out/steps.json"
    part kit "$python" -m tupelo.conformance --backend stood_in:backend --level 0,1,2,3 \
        --report "$out/kit" -v "${kit_arguments[@]}"
    part triton env TRITON_COMPILE_ONLY=1 "$triton" -W ignore ci/npu/triton_compile.py \
        "$out/triton.json"
fi
finish
