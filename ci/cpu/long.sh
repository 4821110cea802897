#!/usr/bin/env bash
# The tests that take minutes: exact tokens on real models, bursts, disconnects, seeded violations.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bash ci/setup.sh dev
"${TUPELO_VENV:-$PWD/.venv}/bin/python" -m pytest -m long --timeout 3600 "$@"
