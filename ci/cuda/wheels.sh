#!/usr/bin/env bash
# Collects, on a machine with a package registry, what a bare CUDA machine lacks beside torch,
# triton and transformers: wheels for CPython 3.12 on x86-64 Linux, into a folder to be carried there.
#
#   ci/cuda/wheels.sh [FOLDER]          default: .whl
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.whl}

packages=(
  flashinfer-python==0.6.14 apache-tvm-ffi==0.1.11 cuda-tile==1.7.0 nvidia-cudnn-frontend==1.32.0
  nvidia-cutlass-dsl==4.8.1 nvidia-cutlass-dsl-libs-base==4.8.1 cuda-python==13.4.4
  msgspec pyzmq gguf google-re2 "llguidance>=1.9,<2" hatchling trove-classifiers
  fastapi starlette uvicorn httptools pydantic==2.13.3 pydantic-core==2.46.3
  annotated-types typing-inspection sniffio opentelemetry-api
)

platforms=()
for version in 2_31 2_28 2_27 2_26 2_24 2_17; do
  platforms+=(--platform "manylinux_${version}_x86_64")
done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)

mkdir -p "$folder"
for package in "${packages[@]}"; do
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 \
    --implementation cp --abi cp312 --abi abi3 --abi none "${platforms[@]}" -d "$folder" "$package"
done
du -sh "$folder"
