#!/usr/bin/env bash
# Sets Tupelo up in .venv, downloads the demo model (98 MB), serves it, and asks it one question.
# The server then stays in the foreground; Ctrl-C ends it. With --once it ends after the answer.
# TUPELO_PORT (30000) is the port; TUPELO_VENV the environment; pip's own settings apply.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
port=${TUPELO_PORT:-30000}
url=http://127.0.0.1:$port
question="What is the capital of France?"
once=
[ "${1:-}" = --once ] && once=1

bash ci/setup.sh
PATH="${TUPELO_VENV:-$PWD/.venv}/bin:$PATH"
echo "quickstart: looking for the demo model"
tupelo pull

echo "quickstart: starting the server on $url"
tupelo serve --host 127.0.0.1 --port "$port" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM

tries=0
until curl --silent --fail --output /dev/null --noproxy '*' "$url/ready"; do
    if ! kill -0 "$server" 2>/dev/null; then
        echo "quickstart: the server ended; its message is above" >&2
        exit 1
    fi
    tries=$((tries + 1))
    if [ "$tries" -ge 600 ]; then
        echo "quickstart: the server did not become ready within 5 minutes" >&2
        exit 1
    fi
    sleep 0.5
done

echo "quickstart: asking: $question"
python - "$url" "$question" <<'PYTHON'
import json
import sys
import urllib.request

url, question = sys.argv[1:]
body = {
    "messages": [{"role": "user", "content": question}],
    "max_tokens": 64,
    "temperature": 0,
}
request = urllib.request.Request(
    url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
)
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with direct.open(request, timeout=120) as reply:
    print("answer:", json.load(reply)["choices"][0]["message"]["content"])
PYTHON
echo "quickstart: ready after $SECONDS s"
[ -n "$once" ] && exit 0
echo "quickstart: the server stays at $url (try: .venv/bin/tupelo chat --url $url); Ctrl-C ends it"
wait "$server"
