#!/usr/bin/env bash
# Proves the CPU backend as a vendor would: only wheels installed, in an empty folder.
# Usage: ci/cpu/conform.sh [REPORT_FOLDER]      arguments after it go to the kit
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
report=${1:-$PWD/conformance-report}
shift || true
mkdir -p "$report"
report=$(cd "$report" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

bash "$root/ci/cpu/wheels.sh" "$folder"
"$folder/venv/bin/python" -m pip install --quiet --quiet "$(ls "$folder"/wheels/tupelo_core-*.whl)[conformance]"
mkdir "$folder/empty"
cd "$folder/empty"
"$folder/venv/bin/python" -m tupelo.conformance --backend cpu --report "$report" "$@"
