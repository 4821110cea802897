"""Tools of language programs, and servers that programs start: one of them, and an engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from tests.system.test_tools import TEMPLATE as TEMPLATE_FILE

import tupelo as tp
from tupelo.errors import EngineUnavailable, ProgramError
from tupelo.lang import EngineBackend, Runtime


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
