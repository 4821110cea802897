#!/usr/bin/env bash
# The one entry point for Intel GPUs; ci/pipeline.sh tells what all pipelines have in common.
#
#   OUT=out ci/xpu/run.sh                on a machine with an Intel GPU, in an environment that has
#                                        torch's XPU build: PYTHON_XPU=/path/to/its/python
#   OUT=out ci/xpu/run.sh --no-device    anywhere: core's Triton kernels to SPIR-V for three
#                                        generations of GPUs, every call of vllm-xpu-kernels and
#                                        intel-extension-for-pytorch against their wheels, engines and
#                                        the kit on a device that stands in, doctor
#
# Environments: xpu (torch's build for CPUs) and triton_xpu (2.5 GB: triton-xpu, which wants Python 3.11
# or 3.12, a C++ compiler, and Level Zero's headers and loader: Debian's packages libze-dev and libze1,
# unpacked without being installed where they are missing).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../pipeline.sh"
PYTHON=${PYTHON:-python3.11}
pipeline xpu "$@"

level_zero() { # lets compilers and programs find Level Zero
    [ -f /usr/include/level_zero/ze_api.h ] && return
    local folder=$venvs/level_zero
    if [ ! -d "$folder/usr" ]; then
        mkdir -p "$folder"
        (cd "$folder" && apt-get download --quiet libze-dev libze1)
        find "$folder" -name '*.deb' -exec dpkg -x {} "$folder" \;
    fi
    local libraries=$folder/usr/lib/$(uname -m)-linux-gnu
    export CPATH=$folder/usr/include:$folder/usr/include/level_zero LIBRARY_PATH=$libraries
    export LD_LIBRARY_PATH=$libraries
}

spirv() { # the driver's helper is C++, and gcc alone would leave its library out
    level_zero
    export CC=g++ TRITON_CACHE_DIR=$venvs/triton_cache PYTHONPATH=$root
    LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$(dirname "$triton")")/lib \
        "$triton" -W ignore ci/xpu/spirv.py "$out/spirv.json"
}

if [ -z "$no_device" ]; then
    environment xpu "packages/core[conformance]" "packages/backend-xpu[vendor]" packages/server
    on_device
else
    # Kept apart: triton-xpu's module is called triton, and there is no other release to choose.
    environment triton_xpu -c ci/constraints-cpu.txt torch packages/core
    triton=$python
    "$triton" -m pip install --quiet --quiet --no-deps triton-xpu==3.3.0b1
    "$triton" -m pip install --quiet --quiet setuptools intel-sycl-rt intel-cmplr-lib-rt
    environment xpu -c ci/constraints-cpu.txt torch "packages/core[conformance]" packages/backend-* \
        pytest pytest-timeout pytest-asyncio
    "$python" -m pip download --quiet --quiet --no-deps -d "$out/wheels" vllm-xpu-kernels==0.1.16.2
    "$python" -m pip download --quiet --quiet --no-deps --python-version 3.11 --only-binary :all: \
        -d "$out/wheels" intel-extension-for-pytorch==2.8.0
    part doctor "$python" -m tupelo doctor
    part schemas "$python" ci/xpu/schemas.py "$out/wheels" "$out/schemas.json"
    rm -rf "$out/wheels"
    part tests "$python" -m pytest -q tests/unit/xpu tests/unit/doctor -k xpu \
        --junitxml "$out/tests.xml"
    part kit env PYTHONPATH="$root" "$python" -W ignore -m tupelo.conformance \
        --backend tests.unit.xpu.stand_in:backend --level 0,1,2,3 --report "$out/kit" -v \
        "${kit_arguments[@]}"
    part spirv spirv
fi
finish
