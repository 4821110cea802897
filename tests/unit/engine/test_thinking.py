"""Budgets of thoughts through the whole engine: the marker comes when it is due, and not before."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.security.model import bytes_of, token_of, write_byte_model
from tests.unit.engine.tiny import VOCAB, tiny_source

from tupelo import Engine
from tupelo.config import EngineConfig
from tupelo.engine.core import EngineCore
from tupelo.engine.messages import Outputs, Submit
from tupelo.errors import InvalidRequest
from tupelo.request import Grammar, Request, SamplingParams
from tupelo.thinking import ThinkingBudget

CLOSE, OPEN = token_of(ord("}")), token_of(ord("{"))
PROMPT = tuple(token_of(byte) for byte in b"think")
RARE = ((CLOSE, -100.0), (OPEN, -100.0), (0, -100.0))
"""The model writes neither marker by itself, and does not end."""
HOT = SamplingParams(max_new_tokens=40, temperature=1.0, seed=3, logit_bias=RARE)
WITHIN = ThinkingBudget(max_tokens=6, close_id=CLOSE, inside=True)


class Machine:
    """An engine's core, stepped by hand."""

    def __init__(self, folder: Path, **options: Any) -> None:
        settings: dict[str, Any] = {
            "max_total_tokens": 2048,
            "max_running_requests": 16,
            "page_size": 4,
            "check_integrity": True,
            "seed": 7,
            "grammar_compile_limit_s": 20.0,
        }
        source = replace(tiny_source(eos_token_id=0), tokenizer_path=str(folder))
        self._engine = Engine(EngineConfig(**(settings | options)), source=source)
        self.core = EngineCore(self._engine._built, lambda: None)

    def close(self) -> None:
        self.core.close()
        self._engine.shutdown()

    def run(self, requests: Sequence[Request], *, disturbed: bool = False) -> list[list[int]]:
        """The outputs of these requests, which all come to their ends.

        Where it is ``disturbed`` they lose their memory now and then, and have to begin anew.
        """
        found: dict[str, list[int]] = {request.rid: [] for request in requests}
        open_rids = set(found)
        self.core.handle(Submit(list(requests)))
        for step in itertools.count():
            if not open_rids:
                break
            messages = self.core.step()
            if disturbed and step % 20 == 19:
                items = self.core.loop.drain()
                self.core.loop.scheduler.retract_all()
                messages = [*messages, Outputs(items)]
            for message in messages:
                assert isinstance(message, Outputs)
                for item in message.items:
                    found[item.rid] += item.token_ids
                    if item.finish is not None:
                        assert item.finish.status == 200, item.finish
                        open_rids.discard(item.rid)
        return list(found.values())

    def one(self, budget: ThinkingBudget | None, **more: Any) -> list[int]:
        """The output of one request."""
        fields = {"params": HOT, **more}
        return self.run([Request(rid="r", input_ids=PROMPT, thinking=budget, **fields)])[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=[{}, {"pipeline_depth": 1, "grammar_backend": "none"}])
def machine(folder: Path, request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(folder, **request.param)
    yield made
    made.close()


@pytest.mark.parametrize("limit", [0, 1, 7, 39])
def test_thoughts_end_behind_so_many_tokens(machine: Machine, limit: int) -> None:
    free = machine.one(None)
    assert CLOSE not in free
    found = machine.one(replace(WITHIN, max_tokens=limit))
    assert found[:limit] == free[:limit]
    assert found[limit] == CLOSE
    assert len(found) == 40
    assert CLOSE not in found[limit + 1 :]


def test_a_budget_that_is_not_used_up_changes_nothing(machine: Machine) -> None:
    free = machine.one(None)
    assert machine.one(replace(WITHIN, max_tokens=40)) == free
    assert machine.one(replace(WITHIN, max_tokens=5, also_close_ids=(free[4],))) == free
    assert machine.one(ThinkingBudget(max_tokens=0, close_id=CLOSE, open_ids=(OPEN,))) == free


def test_only_thoughts_count(machine: Machine) -> None:
    """A token that the model does write opens them: counting begins there, and goes on when it
    comes again."""
    free = machine.one(None)
    opening = next(token for token in free[4:] if token not in free[:4])
    at = free.index(opening)
    budget = ThinkingBudget(max_tokens=3, close_id=CLOSE, open_ids=(opening,))
    found = machine.one(budget)
    assert found[: at + 4] == free[: at + 4]
    assert found[at + 4] == CLOSE
    for later, token in enumerate(found[at + 5 : -1], start=at + 5):
        assert (found[later + 1] == CLOSE) == (token == opening)


@pytest.mark.parametrize("disturbed", [False, True])
def test_a_grammar_begins_behind_them(folder: Path, disturbed: bool) -> None:
    machine = Machine(folder)
    grammar = Grammar(kind="regex", text="[ab]{60}", after=(CLOSE,))
    requests = [
        Request(
            rid=f"r{n}",
            input_ids=PROMPT,
            params=replace(HOT, seed=n, max_new_tokens=74),
            thinking=replace(WITHIN, max_tokens=n),
            grammar=grammar,
        )
        for n in range(8)
    ]
    outputs = machine.run(requests, disturbed=disturbed)
    retractions = machine.core.stats()["retractions"]
    machine.close()
    assert (retractions > 0) == disturbed
    for limit, output in enumerate(outputs):
        assert output.index(CLOSE) == limit
        answer = b"".join(map(bytes_of, output[limit + 1 :]))
        assert len(answer) == 60
        assert set(answer) <= set(b"ab")


def test_a_grammar_that_allows_no_marker_has_its_way(folder: Path) -> None:
    machine = Machine(folder)
    found = machine.one(
        replace(WITHIN, max_tokens=2), grammar=Grammar(kind="regex", text="[ab]{9}")
    )
    machine.close()
    assert set(b"".join(map(bytes_of, found))) <= set(b"ab")


@pytest.mark.parametrize(
    "wrong",
    [{"max_tokens": -1}, {"max_tokens": 2**31}, {"close_id": VOCAB}, {"open_ids": (-1,)}],
    ids=str,
)
def test_budgets_are_bounded(wrong: dict[str, Any]) -> None:
    request = Request(rid="r", input_ids=PROMPT, thinking=replace(WITHIN, **wrong))
    with pytest.raises(InvalidRequest) as caught:
        request.checked(vocab_size=VOCAB, context_length=512)
    assert caught.value.param == "max_thinking_tokens"
