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
PYTHONPATH=$(printf '%s:' "$copy"/packages/*/src)
export PYTHONPATH
core=packages/core/src/tupelo
server=packages/server/src/tupelo_server
failures=0

check() { # check NAME: run it quietly
    case $1 in
    imports) lint-imports --no-cache ;;
    ruff) ruff check --no-cache --output-format concise packages ;;
    format) ruff format --no-cache --check packages ;;
    types) mypy packages/core/src/tupelo/errors.py ;;
    layout) python -m pytest -q -p no:cacheprovider tests/test_layout.py ;;
    options) python ci/options_page.py --check ;;
    esac >"$copy/log" 2>&1
}

# planted CHECK FILE CODE WORDS: with CODE appended to FILE, the check must fail and say WORDS
planted() {
    local had= shown=${3:0:60}
    [ -e "$2" ] && { had=1; cp "$2" "$copy/saved"; }
    printf '%b' "$3" >>"$2"
    if check "$1"; then
        echo "NOT SEEN by $1: ${shown@Q} in $2"
        failures=$((failures + 1))
    elif ! grep -qF -- "$4" "$copy/log"; then
        echo "$1 fails for another reason than ${shown@Q} in $2:"
        tail -20 "$copy/log"
        failures=$((failures + 1))
    else
        echo "red: $1 sees ${shown@Q} in $2"
    fi
    if [ -n "$had" ]; then mv "$copy/saved" "$2"; else rm "$2"; fi
}

for name in imports ruff format types layout options; do
    check "$name" || { echo "$name is red without a violation:"; cat "$copy/log"; exit 1; }
    echo "green: $name"
done
planted imports $server/errors.py '\nimport tupelo_cpu\n' 'tupelo_server.errors -> tupelo_cpu'
planted imports $core/batch.py '\nimport tupelo_cpu\n' 'tupelo.batch -> tupelo_cpu'
planted imports $core/batch.py '\nimport tupelo_server\n' 'tupelo.batch -> tupelo_server'
planted imports $core/engine/plan.py '\nimport flashinfer\n' 'tupelo.engine.plan -> flashinfer'
planted imports $core/ops/norm.py '\nimport triton\n' 'tupelo.ops.norm -> triton'
planted imports $core/cache/radix.py '\nimport torch\n' 'tupelo.cache.radix -> torch'
planted imports $core/scheduler/policy.py '\nimport tupelo.ops\n' 'tupelo.scheduler.policy -> tupelo.ops'
planted imports $core/layers/norm.py '\nimport tupelo.scheduler\n' 'tupelo.layers.norm -> tupelo.scheduler'
planted imports $core/checkpoint/fields.py '\nimport tupelo.cache\n' 'tupelo.checkpoint.fields -> tupelo.cache'
planted imports $core/ops/norm.py '\nimport tupelo.layers\n' 'tupelo.ops.norm -> tupelo.layers'
planted ruff $core/engine/plan.py '\nimport torch\n\ntorch.cuda.synchronize()\n' '`torch.cuda` is banned'
planted ruff $core/engine/plan.py '\nimport pickle\n' '`pickle` is banned'
planted ruff $core/batch.py '\nfrom .errors import TupeloError\n' 'Prefer absolute imports'
planted format $core/batch.py '\nx  =  1\n' 'would be reformatted'
planted types $core/errors.py '\n\ndef f(x):\n    return x\n' 'no-untyped-def'
planted layout $core/engine/plan.py '\nDEVICE = "cuda"\n' "device name 'cuda'"
planted layout $server/errors.py '\nimport torch\n\nFLAG = torch.version.hip\n' 'attribute .hip'
planted layout $core/text/extra.py 'import jinja2\n' 'jinja2 is for'
planted layout $core/engine/plan.py '\neval("1")\n' 'call of eval'
planted layout $core/request.py '\nimport torch\n' 'test_host_wing_runs_without_torch'
planted layout $core/newcomer.py '"""No wing."""\n' 'test_every_module_of_core_has_a_wing'
planted layout $core/specs.py "$(printf 'X = 1\\n%.0s' $(seq 400))" 'lines; at most 500'
planted options docs/options.md '| `--made-up` |\n' 'not up to date'
[ "$failures" -eq 0 ] && echo "every violation turns its check red"
exit "$failures"
