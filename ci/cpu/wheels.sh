#!/usr/bin/env bash
# Builds the wheels into a folder and checks what a user would get from them.
# Usage: ci/cpu/wheels.sh [FOLDER]      FOLDER (default: a temporary one) keeps wheels and environment.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -n "${1:-}" ]; then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
python=${PYTHON:-python3}

"$python" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip"
$pip install --quiet --quiet build
for package in core backend-cpu server; do
    # Built from a copy: a build leaves nothing behind in the tree.
    cp -r "$root/packages/$package" "$folder/$package"
    "$folder/venv/bin/python" -m build --wheel --outdir "$folder/wheels" "$folder/$package" >/dev/null
    rm -rf "${folder:?}/$package"
done
ls -l "$folder/wheels"

core_bytes=$(stat -c %s "$folder"/wheels/tupelo_core-*.whl)
[ "$core_bytes" -lt 1000000 ] || { echo "wheels: core has $core_bytes bytes; at most 1 MB" >&2; exit 1; }

for file in index.html playground/app.js playground/app.css; do
    "$python" -m zipfile -l "$folder"/wheels/tupelo_server-*.whl | grep -q "tupelo_server/static/$file " || {
        echo "wheels: the server has no static/$file" >&2
        exit 1
    }
done

$pip install --quiet --quiet -c "$root/ci/constraints-cpu.txt" torch
$pip install --quiet --quiet -c "$root/ci/constraints-cpu.txt" "$folder"/wheels/*.whl
$pip check
if $pip show --quiet triton 2>/dev/null; then
    echo "wheels: the CPU packages brought triton" >&2
    exit 1
fi
echo "wheels: core has $core_bytes bytes; pip check is clean; no triton"
