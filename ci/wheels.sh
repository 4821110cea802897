#!/usr/bin/env bash
# Builds the wheels of all packages, and installs every backend bare, without its vendor's libraries,
# together beside core: nothing clashes, nobody touches core, and each says why it is unavailable.
#
#   ci/wheels.sh [FOLDER]      FOLDER (default: a temporary one) keeps wheels and environment, 1.5 GB
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -n "${1:-}" ]; then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
unset PYTHONPATH
python=$folder/venv/bin/python
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$folder/venv"
"$python" -m pip install --quiet --quiet build
rm -rf "$folder/wheels"
for package in "$root"/packages/*/; do
    # Built from a copy: a build leaves nothing behind in the tree.
    cp -r "$package" "$folder/package"
    "$python" -m build --wheel --outdir "$folder/wheels" "$folder/package" >/dev/null
    rm -rf "$folder/package"
done
ls "$folder/wheels"

"$python" -m pip install --quiet --quiet -c "$root/ci/constraints-cpu.txt" torch
"$python" -m pip install --quiet --quiet -c "$root/ci/constraints-cpu.txt" \
    --force-reinstall --no-deps "$folder"/wheels/tupelo_{core,backend_*}-*.whl
"$python" -m pip install --quiet --quiet -c "$root/ci/constraints-cpu.txt" \
    "$folder"/wheels/tupelo_{core,backend_*}-*.whl
"$python" -m pip check
cd "$folder"
"$python" "$root/ci/backends_apart.py"
echo "wheels: $(ls "$folder"/wheels/tupelo_backend_*.whl | wc -l) backends beside core"
