"""SGLang's own client and serving benchmark: ``python use_sglang.py URL KEY MODEL_FOLDER``.

Run by hand, for the wheel brings half a gigabyte of what it imports: in an environment with
``pip install --no-deps sglang`` and the modules that it misses, through ``recorder.py``, against::

    tupelo serve MODEL_FOLDER --load-format dummy --enable-admin-routes --profile-dir SOMEWHERE

MODEL_FOLDER is what ``write_letter_model`` in ``tests/system/tiny_model.py`` writes. The recording
is sent again by ``test_recorded_sglang.py``.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import sglang
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.lang.choices import greedy_token_selection

URL, KEY, MODEL = sys.argv[1:]
LENGTH = 12


@sglang.function
def tell(s, topic):
    s += f"One two three: {topic}"
    s += sglang.gen("first", max_tokens=LENGTH, temperature=0)
    s += " and " + sglang.gen("second", max_tokens=LENGTH, stop=[" ", "e"], temperature=0.7)


@sglang.function
def formed(s):
    s += "The number is " + sglang.gen("number", regex="[0-9]{2}", max_tokens=LENGTH)
    s += " or " + sglang.gen_int("whole", max_tokens=4)
    s += " as " + sglang.gen(
        "object",
        json_schema='{"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],'
        ' "additionalProperties": false}',
        max_tokens=40,
    )


@sglang.function
def chosen(s, method=None):
    s += "The colour is "
    more = {} if method is None else {"choices_method": method}
    s += sglang.select("colour", choices=["red", "green", "blue sea"], **more)


@sglang.function
def scored(s):
    s += "one two"
    s += sglang.gen(
        "text",
        max_tokens=4,
        n=1,
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
        min_tokens=2,
        top_k=20,
        top_p=0.9,
        min_p=0.01,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        stop_token_ids=[3],
        ignore_eos=True,
    )


@sglang.function
def forked(s):
    s += "one "
    forks = s.fork(2)
    for number, fork in enumerate(forks):
        fork += f"{number}: " + sglang.gen("part", max_tokens=4, temperature=0)
    forks.join()
    s += forks[0]["part"] + forks[1]["part"]


def use_the_language(backend: RuntimeEndpoint) -> None:
    state = tell.run(topic="the sea", backend=backend)
    assert len(state["first"]) > 0
    assert state.get_meta_info("first")["completion_tokens"] <= LENGTH
    stream = tell.run(topic="the sea", backend=backend, stream=True)
    assert "".join(stream.text_iter("first")) == state["first"]
    states = tell.run_batch([{"topic": "red"}, {"topic": "blue"}], backend=backend)
    assert all(s["first"] for s in states)
    state = formed.run(backend=backend)
    assert len(state["number"]) == 2
    int(state["number"])
    int(state["whole"])
    assert json.loads(state["object"])["a"] in (1, 2)
    assert chosen.run(backend=backend)["colour"] in ("red", "green", "blue sea")
    state = chosen.run(method=greedy_token_selection, backend=backend)
    assert state["colour"] in ("red", "green", "blue sea")
    meta = scored.run(backend=backend).get_meta_info("text")
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"] == 4
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]
    assert all(len(row) == 2 for row in meta["output_top_logprobs"])
    assert forked.run(backend=backend).text().startswith("one ")


def use_the_rest(backend: RuntimeEndpoint) -> None:
    assert backend.get_model_name()
    assert backend.get_server_info()["max_total_tokens"] > 0
    backend.cache_prefix("one two three")
    backend.flush_cache()
    backend.start_profile()
    backend.stop_profile()


def benchmark(backend: str, *more: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.jsonl"
        command = [
            sys.executable, "-m", "sglang.bench_serving",
            "--backend", backend, "--base-url", URL, "--model", MODEL, "--tokenizer", MODEL,
            "--served-model-name", "tupelo",
            "--dataset-name", "random-ids", "--random-input-len", "16", "--random-output-len", "8",
            "--random-range-ratio", "1", "--num-prompts", "3", "--warmup-requests", "1",
            "--output-file", str(output), *more,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        result = json.loads(output.read_text().splitlines()[-1])
        assert result["completed"] == 3, (backend, done.stdout[-2000:])
        if "embedding" not in backend:
            assert result["total_output_tokens"] == 24, (backend, result["total_output_tokens"])


def main() -> int:
    endpoint = RuntimeEndpoint(URL, api_key=KEY)
    use_the_language(endpoint)
    use_the_rest(endpoint)
    for backend in ("sglang", "sglang-oai", "sglang-oai-chat"):
        benchmark(backend)
        benchmark(backend, "--disable-stream")
    benchmark("sglang", "--flush-cache", "--return-logprob", "--top-logprobs-num", "2")
    return 0


if __name__ == "__main__":
    sys.exit(main())
