#!/usr/bin/env bash
# The playground. `build` builds it from packages/server/web into the server's package (node 20 or newer);
# without an argument it does so, demands that the committed files come out byte for byte, and runs the
# tests in a headless Chromium (CHROMIUM names one) against the demo model; further arguments go to pytest.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
(
    cd packages/server/web
    npm ci --no-audit --no-fund
    timeout 120 npm run check
    npm run build
)
if grep -q '"resolved"' packages/server/web/package-lock.json; then
    echo "web: package-lock.json names a registry" >&2
    exit 1
fi
python3 ci/web_digest.py
[ "${1:-}" != build ] || exit 0
git diff --exit-code --stat -- packages/server/src/tupelo_server/static || {
    echo "web: the committed playground is not what its sources make" >&2
    exit 1
}
bash ci/setup.sh dev
"${TUPELO_VENV:-$PWD/.venv}/bin/python" -m pip install --quiet 'playwright>=1.49'
"${TUPELO_VENV:-$PWD/.venv}/bin/python" -m pytest -m long --timeout 900 tests/web "$@"
