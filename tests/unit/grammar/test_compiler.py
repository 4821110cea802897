"""The door: what compiles, what is refused and how quickly, what is kept and for how long."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace

import psutil
import pytest
from tests.unit.grammar.conftest import VOCAB_SIZE
from tests.unit.grammar.schemas import REFUSED, obj, whole

from tupelo.errors import EngineUnavailable, InvalidRequest
from tupelo.grammar import GrammarCompiler, GrammarOptions, Vocabulary, refusal
from tupelo.grammar.backend import GrammarError
from tupelo.request import Grammar

QUICK = GrammarOptions(compile_limit_s=10.0)
"""A limit that nothing here reaches on a busy machine, unless it is meant to."""


def opened(vocabulary: Vocabulary, options: GrammarOptions = QUICK) -> GrammarCompiler:
    return GrammarCompiler(lambda: vocabulary, VOCAB_SIZE, options)


@pytest.fixture(scope="module")
def compiler(vocabulary: Vocabulary) -> Iterator[GrammarCompiler]:
    made = opened(vocabulary)
    yield made
    made.close()


def workers() -> set[psutil.Process]:
    """Compiling processes of this one."""
    children = psutil.Process().children(recursive=True)
    return {child for child in children if "tupelo.grammar.worker" in child.cmdline()}


def schema(value: object) -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(value))


def numbered(number: int) -> Grammar:
    return schema(obj({f"name_{number}": whole()}))


@pytest.mark.parametrize("name", ["depth 10,000", "long chain of references", "bad pattern"])
def test_refusals_say_what_is_wrong(compiler: GrammarCompiler, name: str) -> None:
    value, said = REFUSED[name]
    grammar = Grammar(
        kind="json_schema",
        text=value if isinstance(value, str) else json.dumps(value),
        param="response_format",
    )
    error = compiler.compile(grammar).exception()
    assert isinstance(error, GrammarError)
    told = refusal(grammar, error)
    assert isinstance(told, InvalidRequest)
    assert told.param == "response_format"
    assert said in str(told)


def test_a_process_that_dies_is_replaced(compiler: GrammarCompiler) -> None:
    value, _ = REFUSED["long chain of references"]
    assert isinstance(compiler.compile(schema(value)).exception(), GrammarError)
    assert compiler.compile(numbered(1)).result().matcher().error == ""


def test_what_takes_too_long_is_ended(vocabulary: Vocabulary) -> None:
    compiler = opened(vocabulary, replace(QUICK, compile_limit_s=0.5))
    try:
        compiler.compile(Grammar(kind="json_object")).exception()  # starts a process
        value, said = REFUSED["passes the check and takes for ever"]
        error = compiler.compile(schema(value)).exception()
        assert said in str(error)
        again = compiler.compile(schema(value))
        assert again.done(), "it is remembered"
    finally:
        compiler.close()


def test_one_grammar_is_compiled_once(compiler: GrammarCompiler) -> None:
    before = compiler.stats()
    futures = [compiler.compile(numbered(7)) for _ in range(8)]
    assert len({id(future.result()) for future in futures}) == 1
    assert compiler.compile(numbered(7)).done()
    after = compiler.stats()
    assert after["grammars_compiled"] == before["grammars_compiled"] + 1
    strict = replace(numbered(7), strict=False)
    assert compiler.compile(strict).result() is not futures[0].result()


def test_the_cache_keeps_within_its_bounds(vocabulary: Vocabulary) -> None:
    few = opened(vocabulary, replace(QUICK, cache_entries=3))
    small = opened(vocabulary, replace(QUICK, cache_bytes=1 << 20))
    try:
        for number in range(8):
            few.compile(numbered(number)).result()
            small.compile(numbered(number)).result()
        assert few.stats()["grammars_cached"] == 3
        assert 0 < small.stats()["grammars_cached_bytes"] <= 1 << 20
        compiled = few.stats()["grammars_compiled"]
        few.compile(numbered(7)).result()
        assert few.stats()["grammars_compiled"] == compiled, "the newest are kept"
        few.compile(numbered(0)).result()
        assert few.stats()["grammars_compiled"] == compiled + 1, "the oldest are not"
    finally:
        few.close()
        small.close()


def test_a_grammar_that_grew_is_compiled_anew(vocabulary: Vocabulary) -> None:
    compiler = opened(vocabulary)
    try:
        first = compiler.compile(numbered(1)).result()
        first.grown_bytes = 1e9
        second = compiler.compile(numbered(1)).result()
        assert second is not first
        assert not second.worn
    finally:
        compiler.close()


def test_what_nobody_waits_for_is_not_compiled(vocabulary: Vocabulary) -> None:
    hold = threading.Event()

    def slow() -> Vocabulary:
        assert hold.wait(20)
        return vocabulary

    compiler = GrammarCompiler(slow, VOCAB_SIZE, QUICK)
    try:
        running = [compiler.compile(numbered(i)) for i in range(2)]
        waiting = compiler.compile(numbered(2))
        assert waiting.cancel()
        again = compiler.compile(numbered(3))
        hold.set()
        assert all(future.result() for future in running)
        assert again.result()
        with pytest.raises(CancelledError):
            waiting.result()
        assert compiler.stats()["grammars_compiled"] == 3
        assert compiler.compile(numbered(2)).result(), "it can still be asked for"
    finally:
        compiler.close()


def test_closing_ends_processes_in_the_middle_of_their_work(vocabulary: Vocabulary) -> None:
    before = workers()
    compiler = opened(vocabulary, replace(QUICK, compile_limit_s=60.0))
    compiler.compile(numbered(1)).result()
    children = workers() - before
    assert children
    value, _ = REFUSED["passes the check and takes for ever"]
    future = compiler.compile(schema(value))
    while not future.running():
        time.sleep(0.01)
    began = time.monotonic()
    compiler.close()
    assert time.monotonic() - began < 30, "it does not wait for the end of the work"
    assert isinstance(future.exception(), GrammarError | EngineUnavailable)
    assert not psutil.wait_procs(children, timeout=10)[1]


def test_a_model_without_a_vocabulary_refuses_grammars() -> None:
    def none() -> Vocabulary:
        raise InvalidRequest("the model has no tokenizer")

    compiler = GrammarCompiler(none, 32, QUICK)
    try:
        grammar = numbered(1)
        error = compiler.compile(grammar).exception()
        assert isinstance(error, InvalidRequest)
        assert refusal(grammar, error) is error
    finally:
        compiler.close()
