#!/usr/bin/env bash
# Builds the documentation's site into the folder that is given (default: site), strictly: a dead link,
# a missing anchor or a page outside the navigation fails. It has an environment of its own, which
# TUPELO_DOCS_VENV keeps for the next time.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$root/site}")
venv=${TUPELO_DOCS_VENV:-}
if [ -z "$venv" ]; then
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
fi
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --quiet -r "$root/ci/requirements-docs.txt"
cd "$root"
"$venv/bin/mkdocs" build --strict --clean --site-dir "$out"
