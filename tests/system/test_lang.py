"""Language programs on the demo model: on a server and on an engine in this process, alike."""

import asyncio
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.harness import ServerProcess
from tests.system.lang_programs import PROGRAMS

import tupelo as tp
from tupelo.errors import InvalidRequest, ProgramError
from tupelo.lang import EngineBackend, Runtime

GREEDY: dict[str, Any] = {"temperature": 0}
pytestmark = pytest.mark.timeout(300)  # an engine starts here, beside a server


@pytest.fixture(scope="module")
def endpoint(server: ServerProcess) -> Iterator[Runtime]:
    """The server, as a backend."""
    runtime = Runtime(endpoint=server.url)
    yield runtime
    runtime.shutdown()


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[EngineBackend]:
    """An engine of the same model."""
    with tp.Engine(model=str(demo_gguf), batch_invariant=True) as running:
        backend = EngineBackend(running)
        yield backend
        backend.close()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_gives_the_same_on_both(
    program: Callable[[Any], Any], endpoint: Runtime, engine: EngineBackend
) -> None:
    assert program(endpoint) == program(engine)


def test_the_remote_form_users_know(server: ServerProcess) -> None:
    """A client that names an endpoint, sets it as the default, and reads what ``run`` gives."""
    runtime = tp.Runtime(endpoint=server.url)
    tp.set_default_backend(runtime)
    try:

        @tp.function
        def simple(s: Any, prompt: str) -> None:
            s += prompt
            s += tp.gen("response", max_tokens=128)

        result = simple.run(prompt="The capital of France is", temperature=0, stop="\n")
        assert "Paris" in result["response"]
        assert len(tp.get_server_info()) > 10
        assert tp.flush_cache() is True
    finally:
        tp.set_default_backend(None)
        runtime.shutdown()


def test_the_chat_form_users_know(engine: EngineBackend) -> None:
    """A decorated function without names for what is generated, on an engine as it is."""

    @tp.function
    def chat(s: Any, question: str) -> None:
        s += tp.system("You are a helpful assistant.")
        s += tp.user(question)
        s += tp.assistant(tp.gen(max_tokens=64))
        s += tp.user("And the capital of Italy?")
        s += tp.assistant(tp.gen(max_tokens=64))

    state = chat.run("What is the capital of France?", backend=engine.engine, temperature=0)
    messages = state.messages()
    assert "Paris" in messages[2]["content"]
    assert "Rome" in messages[4]["content"]


def _computed(server: ServerProcess) -> float:
    """Prompt tokens that were computed so far."""
    return server.metric("tupelo:prefill_tokens_total")


def test_a_fork_computes_its_prefix_once(server: ServerProcess, endpoint: Runtime) -> None:
    context = "".join(f"Line {i}: the number of this line is {i * 37 % 101}.\n" for i in range(70))
    num_tokens = len(endpoint.encode_texts([context], special=True)[0])
    assert num_tokens > 1000

    @tp.function
    def ask(s: Any) -> None:
        s += context
        branches = s.fork(8)
        for i, branch in enumerate(branches):
            branch += f"The number of line {i} is" + tp.gen("number", max_tokens=4)
        branches.join()

    endpoint.flush_cache()
    before = _computed(server)
    state = ask.run(backend=endpoint, **GREEDY)
    assert len(state["number"]) == 8
    # Beyond the context, each branch's own words, and the part of a page that they begin in.
    assert _computed(server) - before < num_tokens + 8 * 40


def test_a_batch_computes_its_prefix_once(server: ServerProcess, endpoint: Runtime) -> None:
    context = "".join(f"Item {i} costs {i * 53 % 97} coins.\n" for i in range(60))
    num_tokens = len(endpoint.encode_texts([context], special=True)[0])

    @tp.function
    def price(s: Any, number: int) -> None:
        s += tp.system(context)
        s += tp.user(f"What does item {number} cost?")
        s += tp.assistant(tp.gen("price", max_tokens=4))

    endpoint.flush_cache()
    before = _computed(server)
    states = price.run_batch([{"number": i} for i in range(12)], backend=endpoint, **GREEDY)
    cached = [state.get_meta_info("price")["cached_tokens"] for state in states]
    assert min(cached) >= num_tokens - 16
    assert _computed(server) - before < num_tokens + 12 * 60


def test_a_warmed_prefix_is_found_again(endpoint: Runtime) -> None:
    @tp.function
    def told(s: Any, name: str) -> None:
        s += "A very long story that nobody has told before, about a person who is called so: " * 3
        s += name
        s += tp.gen("more", max_tokens=2)

    endpoint.flush_cache()
    told.cache(endpoint)
    state = told.run("Ann", backend=endpoint, **GREEDY)
    assert state.get_meta_info("more")["cached_tokens"] >= 32


def test_what_the_model_fails_at_is_in_the_state(endpoint: Runtime, engine: EngineBackend) -> None:
    @tp.function
    def wrong(s: Any) -> None:
        s += "Well," + tp.gen("fine", max_tokens=2) + tp.gen("bad", top_p=7.0)
        s += tp.gen("later", max_tokens=2)

    for backend in (endpoint, engine):
        state = wrong.run(backend=backend)
        assert isinstance(state.error(), InvalidRequest)
        assert "top_p" in str(state.error())
        assert state["fine"]
        for name in ("bad", "later"):
            with pytest.raises(InvalidRequest, match="top_p"):
                state[name]
        stream = wrong.run(backend=backend, stream=True)
        with pytest.raises(InvalidRequest, match="top_p"):
            list(stream.text_iter())


def test_a_branch_that_fails_leaves_the_others_alone(engine: EngineBackend) -> None:
    @tp.function
    def half(s: Any) -> str:
        s += "One,"
        good, bad = s.fork(2)
        good += tp.gen("word", max_tokens=2)
        bad += tp.gen("word", regex="[a-z]{3}", top_p=7.0)
        return str(good["word"])

    state = half.run(backend=engine)
    assert state.ret_value
    assert isinstance(state.error(), InvalidRequest)


def test_a_server_is_told_by_name(endpoint: Runtime) -> None:
    prompt, params = "The capital of France is", {"max_new_tokens": 2, "temperature": 0}
    reply = endpoint.generate(prompt, params)
    assert "Paris" in reply["text"]
    several = asyncio.run(endpoint.async_generate([prompt, prompt], params))
    assert [one["text"] for one in several] == [reply["text"]] * 2
    endpoint.cache_prefix(prompt * 8)
    assert endpoint.generate(prompt * 8, params)["meta_info"]["cached_tokens"] >= 32
    with pytest.raises(InvalidRequest, match="embed"):
        endpoint.encode("this model makes no vectors")
    with pytest.raises(ProgramError, match="model_path"):
        endpoint.get_tokenizer()
    assert endpoint.model_info["is_generation"] is True
    text = tp.user("no image here: ") + tp.image(b"\x89PNG\r\n\x1a\n")

    @tp.function
    def look(s: Any) -> None:
        s += text

    with pytest.raises(ProgramError, match=r"image\(\).*reads text only"):
        look.run(backend=endpoint)


def test_no_server_is_an_error_of_its_own() -> None:
    @tp.function
    def hello(s: Any) -> None:
        s += "Hello" + tp.gen("more", max_tokens=1)

    state = hello.run(backend=Runtime(endpoint="http://127.0.0.1:9"))
    with pytest.raises(tp.TupeloError, match="cannot be reached"):
        state["more"]


EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "lang"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("chat", r"Paris.*\n.*Rome"),
        ("extract", r"Ann Lee is 31, and married\."),
        ("choose", r"France: Paris \(Rome -.*\nItaly: Rome .*\nGermany: Berlin "),
        ("branches", r"- Sleep: you should.*\n- Food: you should.*\n- Sport: you should"),
        ("batch", r"Ann is 20; next year 21\nBob is 30; next year 31\nCleo is 40; next year 41"),
    ],
)
def test_examples(
    name: str,
    shown: str,
    server: ServerProcess,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--endpoint", server.url])
    try:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    finally:
        tp.set_default_backend(None)
    assert re.search(shown, capsys.readouterr().out)
