"""Language programs on a server that they start, on services, and what they do with tools."""

import dataclasses
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import psutil
import pytest
from tests.system.test_lang import EXAMPLES
from tests.system.test_tools import TEMPLATE as TEMPLATE_FILE

import tupelo as tp
from tupelo.errors import EngineUnavailable, ProgramError, RequestError
from tupelo.lang import EngineBackend, Runtime

pytestmark = pytest.mark.timeout(300)  # an engine starts here, beside a server


@pytest.fixture(scope="module")
def started(demo_gguf: Path) -> Iterator[Runtime]:
    """A server that was started from Python, with a template that shows tools."""
    with Runtime(
        model_path=demo_gguf, chat_template=TEMPLATE_FILE, batch_invariant=True, start_limit_s=120
    ) as runtime:
        yield runtime
    assert not psutil.pid_exists(runtime.pid)
    runtime.shutdown()  # once more does no harm


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[EngineBackend]:
    """An engine of the same model, with the same template."""
    with tp.Engine(model=str(demo_gguf), batch_invariant=True) as running:
        backend = EngineBackend(running, chat_template=TEMPLATE_FILE.read_text())
        yield backend
        backend.close()


def test_tools_are_called_until_the_model_answers(started: Runtime, engine: EngineBackend) -> None:
    called: list[tuple[str, str, int]] = []

    def get_weather(city: Literal["Paris", "Rome"], unit: Literal["C", "F"], days: int = 1) -> Any:
        """The weather of a city, for some days."""
        called.append((city, unit, days))
        return {"city": city, "degrees": 21}

    def stop_timer() -> str:
        """Stop the kitchen timer."""
        raise RuntimeError("no timer runs")

    @tp.function
    def weather(s: Any) -> None:
        s += tp.user("What is the weather in Paris?")
        tools = [get_weather, stop_timer]
        s += tp.assistant(tp.gen("answer", tools=tools, tool_choice="get_weather", max_tokens=40))
        s += tp.user("Thank you. Are you sure?")
        s += tp.assistant(tp.gen("sure", max_tokens=8))

    texts = []
    for backend in (started, engine):
        called.clear()
        state = weather.run(backend=backend, temperature=0)
        assert state.error() is None
        ((city, unit, days),) = called
        assert city in ("Paris", "Rome")
        assert unit in ("C", "F")
        assert isinstance(days, int)
        (call,) = state.get_meta_info("answer")["tool_calls"]
        assert call["name"] == "get_weather"
        assert json.loads(call["result"]) == {"city": city, "degrees": 21}
        roles = [message["role"] for message in state.messages()]
        assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]
        assert state.messages()[3]["content"] == state["answer"]
        texts.append((state["answer"], state["sure"], called[0]))
    assert texts[0] == texts[1]


def test_a_started_server_and_its_tokenizer(started: Runtime) -> None:
    ids = started.get_tokenizer().encode("Hello there")
    assert [ids] == started.encode_texts(["Hello there"], special=True)


def test_errors_of_tools_are_told_to_the_model(engine: EngineBackend) -> None:
    def stop_timer() -> str:
        """Stop the kitchen timer."""
        raise RuntimeError("no timer runs")

    @tp.function
    def kitchen(s: Any) -> None:
        s += tp.user("Stop the timer.")
        s += tp.assistant(
            tp.gen("answer", tools=[stop_timer], tool_choice="stop_timer", max_tokens=24)
        )

    state = kitchen.run(backend=engine, temperature=0)
    assert state.error() is None
    (call,) = state.get_meta_info("answer")["tool_calls"]
    assert call["result"] == "error: RuntimeError: no timer runs"


def test_a_model_without_a_template_for_tools_is_refused(engine: EngineBackend) -> None:
    def f() -> None:
        """Nothing."""

    @tp.function
    def ask(s: Any) -> None:
        s += tp.user("Hello") + tp.assistant(tp.gen("x", tools=[f]))

    state = ask.run(backend=EngineBackend(engine.engine))
    assert isinstance(state.error(), ProgramError)
    assert "chat template" in str(state.error())


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"(?s)server ended with .*nowhere"):
        Runtime(model_path=tmp_path / "nowhere", start_limit_s=60)


class StandIn:
    """As much of LiteLLM as the backend uses: its ``completion``, which speaks OpenAI's API."""

    def completion(self, *, api_base: str, stream: bool = False, **body: Any) -> Any:
        client = openai.OpenAI(base_url=api_base, api_key="none", max_retries=0)
        return client.chat.completions.create(stream=stream, **body)


@pytest.fixture(params=["openai", "anthropic", "litellm"])
def service(
    request: pytest.FixtureRequest, started: Runtime, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The server, reached as services are."""
    url = started.endpoint
    if request.param == "openai":
        backend: Any = tp.OpenAI("demo", "none", f"{url}/v1", max_tokens_name="max_tokens")
    elif request.param == "anthropic":
        backend = tp.Anthropic("demo", "none", url)
    else:
        monkeypatch.setitem(sys.modules, "litellm", StandIn())
        backend = tp.LiteLLM("demo", api_base=f"{url}/v1")
    yield backend
    backend.close()


@dataclasses.dataclass
class City:
    """What a program asks for."""

    name: Literal["Paris", "Rome"]
    large: bool


def test_services_give_what_the_server_gives(service: Any, started: Runtime) -> None:
    """A conversation on the service's API is what it is on the server's own."""

    def stop_timer(minutes: int = 0) -> str:
        """Stop the kitchen timer."""
        return f"stopped after {minutes}"

    @tp.function
    def talk(s: Any) -> None:
        s += tp.system("You answer in one short sentence.")
        s += tp.user("What is the capital of France?")
        s += tp.assistant(tp.gen("said", max_tokens=24, stop=["\n"]))
        s += tp.user("As JSON, please.")
        s += tp.assistant(tp.gen("city", json_schema=City, max_tokens=40))
        s += tp.user("Stop the timer.")
        tools = [stop_timer]
        s += tp.assistant(tp.gen("timer", tools=tools, tool_choice="stop_timer", max_tokens=40))

    state, own = (talk.run(backend=backend, temperature=0) for backend in (service, started))
    assert state.error() is None
    assert "Paris" in state["said"]
    assert (state["said"], state["city"], state["timer"]) == (
        own["said"],
        own["city"],
        own["timer"],
    )
    assert isinstance(state["city"], City)
    (call,) = state.get_meta_info("timer")["tool_calls"]
    assert call["result"].startswith("stopped after")
    streamed = talk.run(backend=service, stream=True, temperature=0)
    pieces = list(streamed.text_iter("said"))
    assert len(pieces) > 3
    assert "".join(pieces) == state["said"]
    meta = streamed.get_meta_info("said")
    assert meta["finish_reason"]["type"] in ("stop", "end_turn", "stop_sequence")
    assert meta["completion_tokens"] > 3
    streamed.sync()


def test_errors_of_services_are_in_the_state(service: Any) -> None:
    @tp.function
    def wrong(s: Any) -> None:
        s += tp.user("Hello") + tp.assistant(tp.gen("x", temperature=-4.0))

    for stream in (False, True):
        state = wrong.run(backend=service, stream=stream)
        with pytest.raises(RequestError, match="temperature"):
            state["x"]


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(ProgramError, match="pip install litellm"):
        tp.LiteLLM("openai/x")


def test_the_example_of_tools(
    started: Runtime, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools", "--endpoint", started.endpoint])
    try:
        runpy.run_path(str(EXAMPLES / "tools.py"), run_name="__main__")
    finally:
        tp.set_default_backend(None)
    assert re.search(r'get_weather\(\{"city": ".*\) -> .*degrees.*\n.+', capsys.readouterr().out)
