#!/usr/bin/env bash
# The one entry point for NVIDIA GPUs: installs the packages of this tree, then proves and measures.
#
#   OUT=out ci/cuda/run.sh                           everything, one JSON: out/cuda.json
#   ci/cuda/run.sh --parts smoke,conform             some parts; --help lists them
#   OUT=out ci/cuda/run.sh --no-device               anywhere: kernels compiled for GPUs that are not
#                                                    there, their numbers in Triton's interpreter, our
#                                                    calls against FlashInfer's signatures, doctor
#
# A machine without a registry takes its wheels from .whl (see wheels.sh), and FlashInfer kernels that
# an earlier run built from .fi, where these folders exist. ci/pipeline.sh tells more of --no-device.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ "${1:-}" = --no-device ]; then
    . ci/pipeline.sh
    pipeline cuda "$@"
    flashinfer=flashinfer-python==0.6.14
    environment triton -c ci/constraints-cpu.txt torch triton==3.9.0 "packages/core[conformance]" \
        packages/backend-cpu packages/backend-cuda -r ci/requirements-dev.txt
    "$python" -m pip download --quiet --quiet --no-deps -d "$out/flashinfer" "$flashinfer"
    part doctor "$python" -m tupelo doctor
    part interpret "$python" -m pytest -q tests/unit/triton tests/unit/cuda --junitxml "$out/interpret.xml"
    part compile "$python" ci/cuda/compile.py "$out/compile.json"
    part bind "$python" ci/cuda/bind.py "$out"/flashinfer/*.whl "$out/bind.json"
    rm -rf "$out/flashinfer"
    finish
    exit
fi

site=${SITE:-/tmp/tupelo-site}
pip=(python3 -m pip install -q --no-deps --no-compile --no-cache-dir --upgrade --target "$site"
  --root-user-action=ignore)

mkdir -p "$site"
if compgen -G ".whl/*.whl" > /dev/null; then
  "${pip[@]}" --no-index .whl/*.whl
fi
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
"${pip[@]}" --no-build-isolation --no-index ./packages/{core,backend-cuda,server}
if [[ -d .fi ]]; then
  export PYTHONPATH="$PWD/.fi:$PYTHONPATH"
fi
export PYTHONUNBUFFERED=1 FLASHINFER_WORKSPACE_BASE="${FLASHINFER_WORKSPACE_BASE:-/tmp/flashinfer}"
exec python3 ci/cuda/run.py --out "${OUT:-out}" "$@"
