#!/usr/bin/env bash
# The one entry point on a CUDA machine: installs the packages of this tree, then proves and measures.
#
#   OUT=out ci/cuda/run.sh                           everything, one JSON: out/cuda.json
#   ci/cuda/run.sh --parts smoke,conform             some parts; --help lists them
#
# A machine without a registry takes its wheels from .whl (see wheels.sh), and FlashInfer kernels that
# an earlier run built from .fi, where these folders exist.
set -euo pipefail
cd "$(dirname "$0")/../.."
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
