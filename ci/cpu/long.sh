#!/usr/bin/env bash
# The tests that are marked long, which take minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash ci/setup.sh dev
"${TUPELO_VENV:-$PWD/.venv}/bin/python" -m pytest -m long --timeout 3600 "$@"
