#!/usr/bin/env bash
# Ten thousand random requests against a real server: no failure, no restart, nothing left behind.
# TUPELO_FUZZ_REQUESTS sets another number.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash ci/setup.sh dev
"${TUPELO_VENV:-$PWD/.venv}/bin/python" -m pytest -m long -s --timeout 7200 tests/security/test_fuzz.py "$@"
