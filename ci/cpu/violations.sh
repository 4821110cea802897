#!/usr/bin/env bash
# Shows that the checks check: plants one violation of each kind in a copy of the tree and demands
# that the check for it fails, after showing that it passes without. Needs ci/setup.sh dev.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PATH="${TUPELO_VENV:-$root/.venv}/bin:$PATH"
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
tar -C "$root" --exclude=./.git --exclude=./.venv* --exclude=__pycache__ -cf - . | tar -C "$copy" -xf -
cd "$copy"
# The copy's sources, not those that the environment has installed.
export PYTHONPATH=$copy/packages/core/src:$copy/packages/backend-cpu/src:$copy/packages/server/src
core=packages/core/src/tupelo
server=packages/server/src/tupelo_server
failures=0

check() { # check NAME: run it quietly
    case $1 in
    imports) lint-imports --no-cache ;;
    ruff) ruff check --no-cache packages ;;
    format) ruff format --no-cache --check packages ;;
    types) mypy packages/core/src/tupelo/errors.py ;;
    layout) python -m pytest -q -p no:cacheprovider tests/test_layout.py ;;
    options) python ci/options_page.py --check ;;
    esac >"$copy/log" 2>&1
}

planted() { # planted CHECK FILE CODE: the check must fail with CODE appended to FILE
    local had=
    [ -e "$2" ] && { had=1; cp "$2" "$copy/saved"; }
    printf '%b' "$3" >>"$2"
    if check "$1"; then
        echo "NOT SEEN by $1: ${3//$'\n'/ } in $2"
        failures=$((failures + 1))
    else
        echo "red: $1 sees ${3@Q} in $2"
    fi
    if [ -n "$had" ]; then mv "$copy/saved" "$2"; else rm "$2"; fi
}

for name in imports ruff format types layout options; do
    check "$name" || { echo "$name is red without a violation:"; cat "$copy/log"; exit 1; }
    echo "green: $name"
done
planted imports $server/errors.py '\nimport tupelo_cpu\n'
planted imports $core/batch.py '\nimport tupelo_cpu\n'
planted imports $core/batch.py '\nimport tupelo_server\n'
planted imports $core/engine/plan.py '\nimport flashinfer\n'
planted imports $core/ops/norm.py '\nimport triton\n'
planted imports $core/cache/radix.py '\nimport torch\n'
planted imports $core/scheduler/policy.py '\nimport tupelo.ops\n'
planted imports $core/layers/norm.py '\nimport tupelo.scheduler\n'
planted imports $core/checkpoint/fields.py '\nimport tupelo.cache\n'
planted imports $core/ops/norm.py '\nimport tupelo.layers\n'
planted ruff $core/engine/plan.py '\nimport torch\n\ntorch.cuda.synchronize()\n'
planted ruff $core/engine/plan.py '\nimport pickle\n'
planted ruff $core/batch.py '\nfrom .errors import TupeloError\n'
planted format $core/batch.py '\nx  =  1\n'
planted types $core/errors.py '\n\ndef f(x):\n    return x\n'
planted layout $core/engine/plan.py '\nDEVICE = "cuda"\n'
planted layout $server/errors.py '\nimport torch\n\nFLAG = torch.version.hip\n'
planted layout $core/text/extra.py 'import jinja2\n'
planted layout $core/engine/plan.py '\neval("1")\n'
planted layout $core/request.py '\nimport torch\n'
planted layout $core/newcomer.py '"""No wing."""\n'
planted layout $core/specs.py "$(printf 'X = 1\\n%.0s' $(seq 400))"
planted options docs/options.md '| `--made-up` |\n'
[ "$failures" -eq 0 ] && echo "every violation turns its check red"
exit "$failures"
