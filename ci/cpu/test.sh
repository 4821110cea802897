#!/usr/bin/env bash
# Checks and tests the workspace on this machine's CPU: linters, types, import rules, tests.
# Arguments go to pytest (by default: everything that is not marked long). Tests run in two
# processes, a file in one of them; TUPELO_TEST_PROCESSES says otherwise (0: in this one).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
started=$SECONDS
trap 'status=$?; echo "test.sh: exit code $status after $((SECONDS - started)) s"' EXIT
bash ci/setup.sh dev
PATH="${TUPELO_VENV:-$PWD/.venv}/bin:$PATH"

step() {
    echo "test.sh: $*"
    "$@"
}
step ruff check .
step ruff format --check .
step mypy packages/*/src
# The import rules cover every backend, and only this one is installed: name their folders.
step env PYTHONPATH="$(printf '%s:' packages/backend-*/src)" lint-imports
step python -m pytest -n "${TUPELO_TEST_PROCESSES:-2}" --dist loadfile "$@"
