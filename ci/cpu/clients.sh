#!/usr/bin/env bash
# Runs a script with each of nine clients, the newest of its kind and each in an environment of its
# own, against a server with the demo model and a template that takes tools. Writes the versions to
# tests/system/clients/versions.txt and what the clients sent to tests/system/clients/recorded/.
# CLIENTS_DIR keeps the environments; arguments name the clients to run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root/tests/system/clients"
bash "$root/ci/setup.sh" dev
python=${TUPELO_VENV:-$root/.venv}/bin/python
work=${CLIENTS_DIR:-$(mktemp -d)}
log=$work/server.log
declare -A packages=(
    [openai]=openai
    [langchain]=langchain-openai
    [llama_index]=llama-index-llms-openai-like
    [instructor]=instructor
    [litellm]=litellm
    [anthropic]=anthropic
    [ollama]=ollama
    [pydantic_ai]=pydantic-ai
    [responses]=openai
    [agents]=openai-agents
)
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(
    openai langchain llama_index instructor litellm anthropic ollama pydantic_ai responses agents
)

"$python" -m tupelo serve "${TUPELO_DEMO_GGUF:-}" --port 0 --api-key client-key --batch-invariant \
    --chat-template ../tools.jinja >"$log" 2>&1 &
server=$!
trap 'kill $server; wait $server || true' EXIT
for _ in $(seq 600); do
    url=$(sed -n 's/.*listening on \(http[^;]*\);.*/\1/p' "$log" | head -1)
    grep -q "ready in" "$log" && break
    kill -0 $server || { cat "$log"; exit 1; }
    sleep 0.2
done

for name in "${names[@]}"; do
    package=${packages[$name]}
    venv=$work/$package
    [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --quiet --upgrade "$package"
    coproc recorder { exec "$python" recorder.py "$url" "recorded/$name.json"; }
    read -r proxy <&"${recorder[0]}"
    code=0
    HOME=$work LITELLM_LOCAL_MODEL_COST_MAP=True \
        "$venv/bin/python" "use_$name.py" "$proxy" client-key || code=$?
    pid=$recorder_PID
    kill "$pid"
    wait "$pid" || true
    [ $code = 0 ] || { echo "$name failed" >&2; exit 1; }
    version=$("$venv/bin/python" -m pip freeze | grep -i "^$package==")
    openai=$("$venv/bin/python" -m pip freeze | sed -n "s/^openai==.*/ (with &)/p")
    sed -i "/^$package==/d" versions.txt
    echo "$version$openai" >>versions.txt
    echo "$version: passed"
done
sort -o versions.txt versions.txt
