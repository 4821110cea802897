"""How programs run, whatever the model: ahead of it, in branches, in batches, and into errors."""

import threading
from typing import Any

import pytest
from tests.unit.lang.rule import CountingBackend

import tupelo as tp
from tupelo.errors import InvalidRequest, ProgramError, TemplateError
from tupelo.lang.content import Prompt


@pytest.fixture
def counter() -> CountingBackend:
    return CountingBackend()


def test_a_program_runs_ahead_of_the_model(counter: CountingBackend) -> None:
    """Everything is appended before anything was said."""
    appended = threading.Event()

    @tp.function
    def ahead(s: Any) -> None:
        s += "one " + tp.gen("first") + " two "
        for branch in s.fork(4):
            branch += tp.gen("x")
        s += tp.gen("last")
        appended.set()
        counter.gate.set()

    counter.gate.clear()
    state = ahead.run(backend=counter)
    assert appended.is_set()
    assert state["first"] == "<4>"
    assert state["last"] == "<12>"
    assert state.text() == "one <4> two <12>"


def test_branches_wait_for_the_model_side_by_side(counter: CountingBackend) -> None:
    counter.gate.clear()
    counter.opens_at = 5

    @tp.function
    def wider(s: Any) -> None:
        branches = s.fork(4)
        branches += tp.gen("x")
        s += tp.gen("beside")
        branches.join()

    assert wider.run(backend=counter)["x"] == ["<0>"] * 4
    assert counter.at_once == 5


def test_without_threads_each_step_ends_first(counter: CountingBackend) -> None:
    seen: list[int] = []

    @tp.function
    def stepwise(s: Any) -> None:
        s += "a" + tp.gen("x")
        seen.append(len(counter.prompts))
        (branch,) = s.fork(1)
        branch += tp.gen("y")
        seen.append(len(counter.prompts))

    before = threading.active_count()
    stepwise.run(backend=counter, use_thread=False)
    assert seen == [1, 2]
    assert threading.active_count() == before


def test_no_thread_outlives_a_run(counter: CountingBackend) -> None:
    @tp.function
    def wide(s: Any) -> None:
        branches = s.fork(20)
        branches += lambda index: f"branch {index} " + tp.gen("x")
        branches.join()

    before = threading.active_count()
    state = wide.run(backend=counter)
    assert state["x"] == ["<9>"] * 10 + ["<10>"] * 10
    for thread in threading.enumerate():
        if thread.name == "tupelo-state":
            thread.join(10)
    assert threading.active_count() == before


def test_a_fork_shares_what_came_before_once(counter: CountingBackend) -> None:
    context = "a context that is long enough to be worth a call of its own, and some more. "

    @tp.function
    def branched(s: Any) -> None:
        s += context
        branches = s.fork(3)
        branches += ["x", "y", "z"]
        branches += tp.gen("said")
        branches.join()
        s += "and" + tp.gen("end")

    state = branched.run(backend=counter)
    assert [prompt.text for prompt in counter.prefixes] == [context]
    assert sorted(prompt.text[-1] for prompt in counter.prompts) == ["d", "x", "y", "z"]
    assert len(state["said"]) == 3
    assert state.text() == f"{context}and<{len(context) + 3}>"


def test_branches_can_be_put_together(counter: CountingBackend) -> None:
    @tp.function
    def together(s: Any) -> None:
        s += "start "
        branches = s.fork(2)
        for index, branch in enumerate(branches):
            branch += f"[{index}" + tp.gen() + "]"
        branches.join("concate_and_append")
        s += " end"

    assert together.run(backend=counter).text() == "start [0<8>][1<8>] end"


def test_a_batch_shares_what_all_begin_with(counter: CountingBackend) -> None:
    @tp.function
    def ask(s: Any, context: str, question: str) -> None:
        s += tp.system(context)
        s += tp.user("Question: " + question)
        s += tp.assistant(tp.gen("answer"))

    context = "the same context for all questions, of which there are many in this batch"
    items = [{"context": context, "question": "q" * n} for n in range(1, 6)]
    states = ask.run_batch(items, backend=counter)
    (prefix,) = counter.prefixes
    assert prefix.messages == ({"role": "system", "content": context},)
    assert (prefix.role, prefix.begun) == ("user", "Question: ")
    lengths = [int(state["answer"].strip("<>")) for state in states]
    assert lengths == list(range(lengths[0], lengths[0] + 5))
    assert counter.at_once <= 5


def test_a_prefix_that_cannot_be_computed_ahead_hinders_nobody() -> None:
    class Strict(CountingBackend):
        def prefill(self, prompt: Prompt) -> None:
            """A template that wants more."""
            raise TemplateError("conversations begin with a user")

    backend = Strict()

    @tp.function
    def ask(s: Any, question: str) -> None:
        s += tp.system("long " * 30)
        branches = s.fork(2)
        branches += tp.user(question) + tp.assistant(tp.gen("x"))
        branches.join()

    states = ask.run_batch([("a",), ("b",)], backend=backend)
    assert [len(state["x"]) for state in states] == [2, 2]
    with pytest.raises(TemplateError, match="begin with a user"):
        ask.cache(backend)


def test_a_batch_comes_in_order_one_by_one(counter: CountingBackend) -> None:
    @tp.function
    def echo(s: Any, text: str) -> str:
        s += text + tp.gen("n")
        return text

    states = echo.run_batch(
        [("a",), ("b",), ("c",)], backend=counter, num_threads=2, generator_style=True
    )
    assert [state.ret_value for state in states] == ["a", "b", "c"]
    assert counter.at_once <= 2
    with pytest.raises(ProgramError, match="num_threads"):
        echo.run_batch([("a",)], backend=counter, num_threads=0)
    with pytest.raises(ProgramError, match="'txt'"):
        echo.run_batch([{"txt": "a"}], backend=counter)


def test_errors_stay_in_the_state(counter: CountingBackend) -> None:
    reached: list[str] = []

    @tp.function
    def poisoned(s: Any) -> None:
        s += "fine " + tp.gen("good") + " poison " + tp.gen("bad") + " after " + tp.gen("later")
        reached.append(s["good"])
        reached.append(s["bad"])
        reached.append("never")

    state = poisoned.run(backend=counter)
    assert reached == ["<5>"]
    assert isinstance(state.error(), InvalidRequest)
    assert state["good"] == "<5>"
    for read in (lambda: state["later"], state.text, state.messages, lambda: state["bad"]):
        with pytest.raises(InvalidRequest, match="poison"):
            read()
    assert len(counter.prompts) == 2


def test_an_error_of_a_branch_reaches_who_reads_it(counter: CountingBackend) -> None:
    @tp.function
    def branched(s: Any) -> None:
        good, bad = s.fork(2)
        good += tp.gen("x")
        bad += "poison" + tp.gen("x")
        s["kept"] = good["x"]

    state = branched.run(backend=counter)
    assert state["kept"] == "<0>"
    assert isinstance(state.error(), InvalidRequest)


def test_what_the_function_raises_is_raised(counter: CountingBackend) -> None:
    @tp.function
    def broken(s: Any) -> None:
        s += tp.gen("x")
        raise ZeroDivisionError("of the program")

    with pytest.raises(ZeroDivisionError):
        broken.run(backend=counter)
    stream = broken.run(backend=counter, stream=True)
    assert isinstance(_last(stream), ZeroDivisionError)


def test_an_interrupt_waits_for_nothing(counter: CountingBackend) -> None:
    @tp.function
    def interrupted(s: Any) -> None:
        s += "a" + tp.gen("x")
        raise KeyboardInterrupt

    counter.gate.clear()
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(backend=counter)
    assert not counter.gate.is_set()
    counter.gate.set()


def _last(state: Any) -> BaseException | None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(state.text_iter())
    return caught.value


def test_a_reader_of_a_stream_waits_for_variables_to_come(counter: CountingBackend) -> None:
    @tp.function
    def slow(s: Any) -> None:
        s += "a" + tp.gen("first")
        s += s["first"] + tp.gen("second")

    counter.gate.clear()
    state = slow.run(backend=counter, stream=True)
    threading.Timer(0.05, counter.gate.set).start()
    assert list(state.text_iter("second")) == ["<", "7", ">"]
    assert "".join(state.text_iter()) == "a<1><1><7>"
    with pytest.raises(KeyError, match="third"):
        state.text_iter("third")


def test_a_variable_that_nothing_sets_is_told_at_once(counter: CountingBackend) -> None:
    @tp.function
    def wrong(s: Any) -> None:
        s += tp.gen("x")
        s["y"]

    with pytest.raises(KeyError, match="'y': no expression sets it; variables are x"):
        wrong.run(backend=counter)


def test_sampling_of_a_call_wins_over_that_of_the_run(counter: CountingBackend) -> None:
    @tp.function
    def mixed(s: Any, top_k: int) -> None:
        s += str(top_k) + tp.gen("a", max_tokens=5, seed=1) + tp.gen("b")

    state = mixed.run(3, backend=counter, temperature=0.5, max_new_tokens=9, stop=("x",))
    assert state.get_meta_info("a")["asked"] == {
        "max_new_tokens": 5,
        "sampling_seed": 1,
        "temperature": 0.5,
        "stop": ["x"],
    }
    assert state.get_meta_info("b")["asked"]["max_new_tokens"] == 9
    assert mixed.run(top_k=3, backend=counter).get_meta_info("b")["asked"] == {
        "max_new_tokens": 128
    }
    with pytest.raises(ProgramError, match="'temprature'"):
        mixed.run(3, backend=counter, temprature=0)


def test_binding(counter: CountingBackend) -> None:
    @tp.function()  # as users of SGLang may write it
    def two(s: Any, a: str, b: str) -> None:
        """Two texts."""
        s += a + b + tp.gen("n")

    assert two.__doc__ == "Two texts."
    assert two.bind(b="22").run("1", backend=counter)["n"] == "<3>"
    assert two.bind(a="1").bind(b="22")(backend=counter)["n"] == "<3>"
    with pytest.raises(ProgramError, match="'c'"):
        two.bind(c=1)


def test_there_must_be_a_backend() -> None:
    @tp.function
    def plain(s: Any) -> None:
        s += "x"

    with pytest.raises(ProgramError, match="set_default_backend"):
        plain.run()
    with pytest.raises(ProgramError, match="a str is no backend"):
        plain.run(backend="http://localhost")
