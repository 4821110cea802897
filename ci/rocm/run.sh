#!/usr/bin/env bash
# The one entry point for AMD GPUs; ci/pipeline.sh tells what all pipelines have in common.
#
#   OUT=out ci/rocm/run.sh                on a machine with a GPU, whose torch is built for ROCm:
#                                         PYTHON_ROCM is an interpreter that has it, and Tupelo's
#                                         packages, as README says
#   OUT=out ci/rocm/run.sh --no-device    anywhere: every Triton kernel compiled for five architectures of
#                                         AMD's and four of NVIDIA's; core's and AITER's interpreted
#                                         against the references; AITER's signatures; whole steps; the kit
#                                         on the backend's parts, interpreted
#
# Without a GPU the environment is triton (2 GB with torch's build for CPUs), and the parts take about
# an hour on two cores.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"
pipeline rocm "$@"

if [ -z "$no_device" ]; then
    # torch's build for ROCm is not what "torch" names in an index: an environment without it is refused.
    environment rocm "packages/core[conformance]" "packages/backend-rocm[vendor]" packages/server
    on_device
else
    environment triton -c ci/constraints-cpu.txt torch triton==3.9.0 "packages/core[conformance]" \
        packages/backend-cpu "packages/backend-rocm[vendor]" -r ci/requirements-dev.txt
    part doctor "$python" -m tupelo doctor
    part compile env PYTHONPATH="$root:${PYTHONPATH:-}" "$python" -W ignore ci/rocm/compile.py \
        "$out/compile.json"
    part interpret "$python" -m pytest -q tests/unit/rocm tests/unit/triton tests/unit/graphs \
        --deselect tests/unit/triton/test_compile.py --junitxml "$out/interpret.xml"
    export TRITON_INTERPRET=1 PYTHONPATH="$root/ci/rocm:$root:${PYTHONPATH:-}"
    part kit "$python" -W ignore -m tupelo.conformance --backend interpreted:backend \
        --level 0,1,2,3 --report "$out/kit" -v "${kit_arguments[@]}"
fi
finish
