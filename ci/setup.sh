#!/usr/bin/env bash
# Makes the virtual environment $TUPELO_VENV (default: .venv in the workspace) with the three CPU
# packages installed editable; with the argument "dev", the other backends and the tools of
# ci/requirements-dev.txt too.
# Running it again does nothing until what is to be installed changes. The user's own pip settings
# (index, proxy, certificates) apply.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${TUPELO_VENV:-$root/.venv}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && "$candidate" -c \
            'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: needs Python 3.11 to 3.13; install one, or name it: PYTHON=/path/to/python" >&2
    return 1
}

if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python)
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || {
        echo "setup: cannot make a virtual environment; on Debian: apt install python3-venv" >&2
        exit 1
    }
fi
packages=(-e "$root/packages/core" -e "$root/packages/backend-cpu" -e "$root/packages/server")
if [ "${1:-}" = dev ]; then # every backend can be installed, and tested as far as goes without its device
    packages+=(-e "$root/packages/backend-cuda" -e "$root/packages/backend-npu"
        -e "$root/packages/backend-rocm" -e "$root/packages/backend-tpu"
        -e "$root/packages/backend-xpu"
        -r "$root/ci/requirements-dev.txt")
fi
# What is installed follows from these files; the stamp says that it already was.
wanted=$(cat "$root"/packages/*/pyproject.toml "$root"/ci/*.txt "${BASH_SOURCE[0]}" | cksum)
stamp=$venv/.tupelo-setup-${1:-use}
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

quiet=(--quiet --quiet)
[ -t 1 ] && quiet=() # people see pip's progress, logs do not
install() {
    "$venv/bin/python" -m pip install "${quiet[@]}" -c "$root/ci/constraints-cpu.txt" "$@"
}
# torch comes first and alone: its build for CPUs is then settled before anything else asks for it.
# On Linux the default index has its builds for GPUs, which are gigabytes larger. Whoever has set pip
# up for other indexes is sent to none besides.
index=()
if [ "$(uname -sm)" = "Linux x86_64" ] &&
    ! "$venv/bin/python" -m pip config list | grep -qE 'index|find-links'; then
    index=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
echo "setup: installing torch"
install "${index[@]}" torch
echo "setup: installing Tupelo's packages and what they need"
install "${packages[@]}"
"$venv/bin/python" -m pip check
echo "$wanted" >"$stamp"
