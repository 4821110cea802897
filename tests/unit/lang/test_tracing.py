"""Programs without a model: what is known before they run."""

from typing import Any

import pytest
from tests.unit.lang.rule import CountingBackend

import tupelo as tp
from tupelo.errors import ProgramError, UnsupportedOperation
from tupelo.lang.ir import Gen, Text

NOWHERE = "http://127.0.0.1:9/v1"
"""Nothing listens there: what gets so far fails in another way."""


def _remote(kind: str) -> Any:
    if kind == "openai":
        return tp.OpenAI("some-model", base_url=NOWHERE)
    return tp.Anthropic("some-model", base_url=NOWHERE)


@tp.function
def story(s: Any, context: str, name: str) -> None:
    """A program whose beginning depends on one argument."""
    s += "In " + context + ", there lives "
    s += name
    s += ", who" + tp.gen("does", max_tokens=8)
    s += "and so" + s["does"]
    branches = s.fork(2)
    branches += tp.gen("end")
    branches.join()
    if "x" in s["end"]:
        s += "never traced"


def test_a_trace_goes_on_to_where_a_value_is_needed() -> None:
    trace = story.trace(context="a town")
    texts = [step.text for step in trace.steps if isinstance(step, Text)]
    assert texts == ["In a town, there lives ", ", who", "and so"]
    assert [step.name for step in trace.steps if isinstance(step, Gen)] == ["does"]
    assert [len(fork.steps) for fork in trace.forks] == [1, 1]
    assert not trace.complete
    assert trace.prefix.text == "In a town, there lives "
    assert story.trace("x", "y").prefix.text == "In x, there lives y, who"


def test_what_does_not_depend_on_arguments_is_cached() -> None:
    backend = CountingBackend()
    story.bind(context="a house").cache(backend)
    assert [prefix.text for prefix in backend.prefixes] == ["In a house, there lives "]
    assert not backend.prompts


def test_a_program_that_looks_at_its_arguments_can_still_be_cached() -> None:
    backend = CountingBackend()

    @tp.function
    def shouting(s: Any, word: str) -> None:
        s += tp.system("You are loud.")
        s += tp.user(f"Say {word.upper()}.")

    shouting.cache(backend)
    assert backend.prefixes[0].messages == ({"role": "system", "content": "You are loud."},)


def test_errors_of_a_traced_program_are_raised() -> None:
    @tp.function
    def wrong(s: Any) -> None:
        s += tp.user("x") + "y"

    with pytest.raises(ProgramError, match="between messages"):
        wrong.trace()


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (tp.assistant(tp.gen("x", regex="[0-9]")), r"gen\(dtype or regex=…\)"),
        (tp.assistant(tp.gen("x", dtype=int)), r"gen\(dtype or regex=…\)"),
        (tp.assistant(tp.gen("x", ebnf='root ::= "a"')), r"gen\(ebnf=…\)"),
        (tp.assistant(tp.gen("x", min_p=0.1)), r"gen\(min_p=…\): it takes .*\bmax_tokens, "),
        (tp.assistant(tp.gen("x", min_tokens=3)), r"gen\(min_tokens=…\)"),
        (tp.assistant(tp.gen("x", return_logprob=True)), r"gen\(return_logprob=…\)"),
        (tp.assistant(tp.select("x", ["a", "b"])), r"select\(\).*enum"),
        (tp.assistant("Well, " + tp.gen("x")), "text before gen"),
        (tp.user(tp.video(b"v")), r"video\(\)"),
    ],
)
def test_what_a_service_cannot_do_is_refused_before_anything_runs(
    kind: str, step: Any, message: str
) -> None:
    """The refused step is the last; the service, which is not there, is never asked."""
    ran: list[Any] = []

    @tp.function
    def program(s: Any) -> None:
        s += tp.user("hello") + tp.assistant(tp.gen("first"))
        s += tp.user(s["first"])
        s += step
        ran.append(s["first"] == "")

    with pytest.raises(UnsupportedOperation, match=message):
        program.run(backend=_remote(kind))
    assert not ran
    with pytest.raises(UnsupportedOperation, match=message):
        program.run(backend=_remote(kind), stream=True)


def test_text_without_roles_and_options_of_the_run_are_refused_too() -> None:
    @tp.function
    def plain(s: Any) -> None:
        s += "Hello" + tp.gen("x")

    with pytest.raises(UnsupportedOperation, match="without roles"):
        plain.run(backend=_remote("openai"))

    @tp.function
    def chat(s: Any) -> None:
        s += tp.user("Hello") + tp.assistant(tp.gen("x"))

    with pytest.raises(UnsupportedOperation, match="top_k"):
        chat.run(backend=_remote("openai"), top_k=3)
    state = chat.run(backend=_remote("openai"))  # nothing to refuse: so it is asked
    assert "cannot be reached" in str(state.error())


def test_a_program_that_runs_another_is_not_run_by_its_trace() -> None:
    inner_runs: list[str] = []

    @tp.function
    def inner(s: Any) -> None:
        inner_runs.append("ran")
        s += "a" + tp.gen("x")

    @tp.function
    def outer(s: Any) -> None:
        s += tp.user("first")
        s += inner.run(backend=CountingBackend())["x"]

    assert len(outer.trace().steps) == 3
    assert not inner_runs


def test_a_step_behind_a_value_is_refused_when_it_is_reached() -> None:
    """A branch that no trace sees is refused by ``+=``, before its step runs."""

    class Shy(CountingBackend):
        name, traced = "the shy", True

        def check(self, step: object, place: object) -> None:
            """Numbers are refused."""
            if isinstance(step, Gen) and "regex" in step.sampling:
                raise self.cannot("numbers", "it is shy")

    @tp.function
    def later(s: Any) -> None:
        s += "a" + tp.gen("x")
        if s["x"] == "<1>":
            s += tp.gen("y", dtype=int)

    backend = Shy()
    with pytest.raises(UnsupportedOperation, match="the shy cannot do numbers"):
        later.run(backend=backend)
    assert len(backend.prompts) == 1
