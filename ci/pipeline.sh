# Shared by the pipelines of all accelerators: ci/<vendor>/run.sh sources it. All start alike:
#
#   OUT=out ci/<vendor>/run.sh               on a machine with the device: the packages, the kit's
#                                            certified profile, a server that replies, its speed
#   OUT=out ci/<vendor>/run.sh --no-device   anywhere: all that can be shown without the device
#
# More arguments go to the kit. OUT (default: out) is what to upload: <vendor>.json, which joins what
# the parts wrote; reports and certificate.json in kit/; a log for each part. It must be new or empty.
# VENVS (default: a temporary folder) keeps the environments, which PYTHON makes (3.11 to 3.13);
# PYTHON_<NAME> is an interpreter to be used as it is in the place of environment <name>.
# PARTS, with commas between, runs some parts only. MODEL, PORT: see serve.py.

pipeline() { # VENDOR [ARGUMENT...]: begin
    vendor=$1
    shift
    no_device=
    if [ "${1:-}" = --no-device ]; then
        no_device=1
        shift
    fi
    kit_arguments=("$@")
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    mkdir -p "${OUT:-out}"
    out=$(cd "${OUT:-out}" && pwd)
    venvs=${VENVS:-}
    if [ -z "$venvs" ]; then
        venvs=$(mktemp -d)
        trap 'rm -rf "$venvs"' EXIT
    fi
    cd "$root"
    : >"$out/parts.tsv"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONUNBUFFERED=1
}

environment() { # NAME REQUIREMENT...: sets $python to an interpreter that has them
    local name=$1 given=PYTHON_${1^^}
    shift
    python=${!given:-}
    if [ -z "$python" ]; then
        python=$venvs/$name/bin/python
        [ -x "$python" ] || "${PYTHON:-python3}" -m venv "$venvs/$name"
        echo "run.sh: installing into $name"
        "$python" -m pip install --quiet --quiet "$@"
    fi
}

part() { # NAME COMMAND...: runs on when it fails
    local name=$1 began=$SECONDS status=0
    shift
    if [ -n "${PARTS:-}" ] && [[ ",$PARTS," != *",$name,"* ]]; then
        return
    fi
    echo "run.sh: $name"
    "$@" >"$out/$name.log" 2>&1 </dev/null || status=$?
    tail -n 3 "$out/$name.log"
    printf '%s\t%s\t%s\n' "$name" "$status" $((SECONDS - began)) >>"$out/parts.tsv"
}

on_device() { # what every pipeline does where the device is
    local known=packages/backend-$vendor/conformance.toml kit=(--profile certified)
    [ ! -f "$known" ] || kit+=(--expect "$known")
    export TUPELO_BACKEND=$vendor
    part doctor "$python" -m tupelo doctor
    part kit "$python" -m tupelo.conformance --backend "$vendor" "${kit[@]}" --report "$out/kit" -v \
        "${kit_arguments[@]}"
    part serve "$python" ci/serve.py "$out/serve.json"
}

finish() { # joins what was written; the exit code says whether every part passed
    "$python" ci/pipeline_report.py "$vendor" "$out"
}
