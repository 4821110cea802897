"""Structured output through the whole engine: every way to compute a request gives the same one."""

import itertools
import json
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.security.model import VOCAB, token_of, write_byte_model
from tests.unit.engine.tiny import tiny_source

from tupelo import Engine
from tupelo.config import EngineConfig
from tupelo.engine.core import EngineCore
from tupelo.engine.grammars import GrammarQueue
from tupelo.engine.messages import Abort, Finish, Outputs, Submit
from tupelo.errors import InvalidRequest, RequestError
from tupelo.grammar import GrammarCompiler, GrammarOptions, Vocabulary
from tupelo.request import FinishReason, Grammar, Request, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {
        "identifier_of_the_thing": {"type": "integer", "minimum": 0, "maximum": 99},
        "colour_of_the_thing": {"enum": ["red", "green"]},
    },
    "required": ["identifier_of_the_thing", "colour_of_the_thing"],
    "additionalProperties": False,
}
PROMPT = [token_of(byte) for byte in b"tell me about the thing"]
HOT = {"temperature": 1.0, "seed": 5, "max_new_tokens": 200}


EXPLODING = r"((.|\w)*[a-m](.|\w){3,300}){1,50}Z"
"""Its automaton outgrows its bounds after some two hundred random characters."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_byte_model(tmp_path_factory.mktemp("model"))


def engine(folder: Path, **options: Any) -> Engine:
    """The tiny model with a tokenizer of bytes; no whitespace, so that much is forced."""
    settings: dict[str, Any] = {
        "max_total_tokens": 4096,
        "max_running_requests": 16,
        "page_size": 4,
        "check_integrity": True,
        "seed": 7,
        "constrained_json_disable_any_whitespace": True,
        "grammar_compile_limit_s": 20.0,
    }
    source = replace(tiny_source(eos_token_id=0), tokenizer_path=str(folder))
    return Engine(EngineConfig(**(settings | options)), source=source)


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Engine]:
    with engine(folder, pipeline_depth=2) as made:
        yield made


def checked(reply: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a reply that ended by itself."""
    assert reply["meta_info"]["finish_reason"]["type"] == "stop", reply
    assert reply["meta_info"]["completion_tokens"] == len(reply["output_ids"])
    value: dict[str, Any] = json.loads(reply["text"])
    assert set(value) == set(SCHEMA["properties"])  # type: ignore[call-overload]
    return value


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[str]:
    with engine(folder, pipeline_depth=1, disable_jump_forward=True) as plain:
        replies = [
            plain.generate(input_ids=PROMPT, sampling_params={**HOT, "seed": s, "regex": REGEX})
            for s in range(6)
        ]
    return [reply["text"] for reply in replies]


REGEX = r"The quick brown fox [a-c]{4} jumps over the lazy dog: [x-z]{3} and that is all\."


@pytest.mark.parametrize(
    ("depth", "jump", "chunk", "radix", "pages"),
    [
        (depth, jump, *others)
        for depth, jump in itertools.product((1, 2), (True, False))
        for others in ((16, True, 4096), (0, False, 300))
    ],
)
def test_texts_do_not_depend_on_how_they_are_computed(
    folder: Path,
    reference: list[str],
    depth: int,
    jump: bool,
    chunk: int,
    radix: bool,
    pages: int,
) -> None:
    """Sampling is a function of seed and position, so even what stands between forced tokens
    agrees; each byte is a token but for a few pairs, which a regular expression cannot tell."""
    with engine(
        folder,
        pipeline_depth=depth,
        disable_jump_forward=not jump,
        chunked_prefill_size=chunk,
        disable_radix_cache=not radix,
        max_total_tokens=pages,
    ) as made:
        limit = {"max_new_tokens": 62}  # few enough to admit more than memory can hold
        params = [{**HOT, **limit, "seed": seed, "regex": REGEX} for seed in range(6)]
        replies = made.generate(input_ids=[PROMPT] * 6, sampling_params=params)
        stats = made.stats()
    assert all(re.fullmatch(REGEX, reply["text"]) for reply in replies)
    if not jump:
        assert [reply["text"] for reply in replies] == reference
    assert (stats["forced_tokens"] > 100) == jump
    assert stats["num_running"] == stats["num_waiting"] == 0
    if pages == 300 and not jump:
        assert stats["retractions"] > 0
    if jump:
        sampled = stats["decode_tokens"]
        total = sum(reply["meta_info"]["completion_tokens"] for reply in replies)
        assert sampled + stats["forced_tokens"] == total


def test_a_schema_is_followed_greedily_and_hot(shared: Engine) -> None:
    for params in ({"temperature": 0, "max_new_tokens": 200}, HOT):
        reply = shared.generate(input_ids=PROMPT, sampling_params={**params, "json_schema": SCHEMA})
        checked(reply)


def test_samples_differ_and_are_all_valid(shared: Engine) -> None:
    params = {**HOT, "n": 6, "json_schema": SCHEMA}
    replies = shared.generate(input_ids=PROMPT, sampling_params=params)
    values = [json.dumps(checked(reply)) for reply in replies]
    assert len(set(values)) > 2


def test_a_stream_is_the_reply_in_pieces(shared: Engine) -> None:
    params = {**HOT, "json_schema": SCHEMA}
    whole = shared.generate(input_ids=PROMPT, sampling_params=params)
    pieces = list(shared.generate(input_ids=PROMPT, sampling_params=params, stream=True))
    assert pieces[-1]["text"] == whole["text"]
    assert pieces[-1]["output_ids"] == whole["output_ids"]
    assert 3 < len(pieces) < len(whole["output_ids"]), "forced tokens come together"


def test_logprobs_have_a_row_for_every_token(shared: Engine) -> None:
    params = {**HOT, "json_schema": SCHEMA}
    before = shared.stats()["forced_tokens"]
    reply = shared.generate(
        input_ids=PROMPT, sampling_params=params, return_logprob=True, top_logprobs_num=2
    )
    checked(reply)
    rows = reply["meta_info"]["output_token_logprobs"]
    assert [row[1] for row in rows] == reply["output_ids"]
    assert len(reply["meta_info"]["output_top_logprobs"]) == len(rows)
    assert shared.stats()["forced_tokens"] == before, "nothing is jumped over"


def test_penalties_are_counted_for_every_token(folder: Path) -> None:
    params = {**HOT, "frequency_penalty": 0.7, "repetition_penalty": 1.2, "json_schema": SCHEMA}
    texts = []
    for depth in (1, 2):
        with engine(folder, pipeline_depth=depth) as made:
            texts.append(checked(made.generate(input_ids=PROMPT, sampling_params=params)))
    assert texts[0] == texts[1]


def test_a_limit_of_tokens_cuts_what_is_forced(shared: Engine) -> None:
    for limit in (1, 2, 9, 25):
        params = {**HOT, "max_new_tokens": limit, "json_schema": SCHEMA}
        meta = shared.generate(input_ids=PROMPT, sampling_params=params)["meta_info"]
        assert meta["finish_reason"] == {"type": "length", "length": limit}
        assert meta["completion_tokens"] == limit


def test_stop_tokens_and_strings_act_on_what_is_forced(shared: Engine) -> None:
    params = {**HOT, "regex": REGEX, "stop_token_ids": [token_of(ord("q"))]}
    reply = shared.generate(input_ids=PROMPT, sampling_params=params)
    assert reply["text"] == "The "
    assert reply["meta_info"]["finish_reason"]["matched"] == token_of(ord("q"))
    params = {**HOT, "regex": REGEX, "stop": [" fox"]}
    reply = shared.generate(input_ids=PROMPT, sampling_params=params)
    assert reply["text"] == "The quick brown"


def test_ends_wait_for_min_new_tokens_and_ignore_eos(shared: Engine) -> None:
    params = {**HOT, "regex": "[ab]{1,40}"}
    free = shared.generate(input_ids=PROMPT, sampling_params={**params, "logit_bias": {"0": 50}})
    assert len(free["text"]) <= 2
    for more in ({"min_new_tokens": 12}, {"ignore_eos": True}):
        held = {**params, **more, "logit_bias": {"0": 50}}
        reply = shared.generate(input_ids=PROMPT, sampling_params=held)
        assert re.fullmatch("[ab]{1,40}", reply["text"])
        assert len(reply["output_ids"]) >= 12
        assert reply["meta_info"]["finish_reason"]["type"] == "stop"
    # Where the grammar is over, nothing is left to wait for.
    short = {**HOT, "regex": "ab", "min_new_tokens": 30}
    assert shared.generate(input_ids=PROMPT, sampling_params=short)["text"] == "ab"


def test_rows_without_a_grammar_are_as_they_are_alone(shared: Engine) -> None:
    plain = {**HOT, "max_new_tokens": 60, "ignore_eos": True}
    alone = [
        shared.generate(input_ids=PROMPT, sampling_params={**plain, "seed": seed})["output_ids"]
        for seed in range(3)
    ]
    params = [{**plain, "seed": seed} for seed in range(3)]
    params += [{**HOT, "seed": seed, "json_schema": SCHEMA} for seed in range(3)]
    replies = shared.generate(input_ids=[PROMPT] * 6, sampling_params=params)
    assert [reply["output_ids"] for reply in replies[:3]] == alone
    for reply in replies[3:]:
        checked(reply)


def test_a_request_may_only_be_prefilled(shared: Engine) -> None:
    params = {"max_new_tokens": 0, "json_schema": SCHEMA}
    assert shared.generate(input_ids=PROMPT, sampling_params=params)["output_ids"] == []


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"regex": "a(?=b)"}, "regex"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": {"type": "colour"}}, "json_schema"),
        ({"ebnf": "root ::= x"}, "ebnf"),
        ({"choice": []}, "choice"),
        ({"structural_tag": {"type": "structural_tag"}}, "structural_tag"),
        ({"regex": "a" * 20_000}, "regex"),
        ({"regex": "\ud800"}, "regex"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "ebnf"),
        ({"regex": ["a"]}, "regex"),
    ],
)
def test_bad_grammars_name_their_field(shared: Engine, asked: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        shared.generate(input_ids=PROMPT, sampling_params=asked)
    assert caught.value.param == param
    assert caught.value.status == 400


def test_a_grammar_that_fails_midway_fails_its_request_alone(shared: Engine) -> None:
    exploding = {**HOT, "max_new_tokens": 450, "regex": EXPLODING}
    params = [exploding, {**HOT, "json_schema": SCHEMA}]
    stream = shared.generate(input_ids=[PROMPT] * 2, sampling_params=params, stream=True)
    with pytest.raises(InvalidRequest, match="cannot be followed") as caught:
        for _ in stream:
            pass
    assert caught.value.code == "grammar_failed"
    checked(shared.generate(input_ids=PROMPT, sampling_params=params[1]))


def test_it_is_refused_where_it_is_switched_off(folder: Path) -> None:
    with (
        engine(folder, grammar_backend="none") as made,
        pytest.raises(InvalidRequest, match="regex"),
    ):
        made.generate(input_ids=PROMPT, sampling_params={"regex": "a"})


def test_a_model_without_a_tokenizer_refuses_it() -> None:
    source = tiny_source(eos_token_id=0)
    with (
        Engine(EngineConfig(max_total_tokens=512), source=source) as made,
        pytest.raises(InvalidRequest, match="no tokenizer"),
    ):
        made.generate(input_ids=PROMPT, sampling_params={"regex": "a"})


class Slow:
    """An engine's core whose vocabulary comes when it is let, and the messages it sent."""

    def __init__(self, folder: Path) -> None:
        self.hold = threading.Event()
        self.woken: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._engine = engine(folder, grammar_backend="none")
        self.core = EngineCore(self._engine._built, lambda: self.woken.put(True))
        vocabulary = Vocabulary(
            tokens=(b"<end>", *(bytes([b]) for b in range(256)), *[b""] * (VOCAB - 257)),
            special_ids=(0,),
            eos_ids=(0,),
            encode=lambda text: [1 + byte for byte in text.encode()],
        )

        def read() -> Vocabulary:
            assert self.hold.wait(20)
            return vocabulary

        compiler = GrammarCompiler(read, VOCAB, GrammarOptions(compile_limit_s=20.0))
        self.queue = GrammarQueue(compiler, lambda: self.woken.put(True), 4)
        self.core.loop._grammars = self.queue

    def __enter__(self) -> "Slow":
        return self

    def __exit__(self, *_: object) -> None:
        self.hold.set()
        self.queue.compiler.close()
        self._engine.shutdown()

    def submit(self, rid: str, regex: str | None = None) -> list[Finish | None]:
        grammar = None if regex is None else Grammar(kind="regex", text=regex)
        params = SamplingParams(max_new_tokens=4, temperature=0.0)
        request = Request(rid=rid, input_ids=(5, 6, 7), params=params, grammar=grammar)
        return finishes(self.core.handle(Submit([request])))

    def run(self) -> dict[str, Finish]:
        ended: dict[str, Finish] = {}
        while self.core.has_work():
            for message in self.core.step():
                assert isinstance(message, Outputs)
                ended |= {o.rid: o.finish for o in message.items if o.finish is not None}
        return ended


def finishes(messages: list[Any]) -> list[Finish | None]:
    return [output.finish for message in messages for output in message.items]


def test_waiting_for_a_grammar_delays_nobody(folder: Path) -> None:
    with Slow(folder) as slow:
        assert slow.submit("waits", "[a-z]{2}") == []
        assert not slow.core.has_work(), "it holds neither slot nor page, and nothing spins"
        assert slow.submit("goes") == []
        assert slow.run()["goes"].reason is FinishReason.LENGTH
        assert slow.core.stats()["num_running"] == 0
        slow.hold.set()
        assert slow.woken.get(timeout=20)
        assert slow.run()["waits"].reason is FinishReason.STOP


def test_a_request_can_be_aborted_while_its_grammar_is_compiled(folder: Path) -> None:
    with Slow(folder) as slow:
        slow.submit("one", "[a-z]{2}")
        slow.submit("two", "[a-z]{2}")
        (ended,) = finishes(slow.core.handle(Abort(["one"])))
        assert ended is not None
        assert (ended.reason, ended.status) == (FinishReason.ABORT, 499)
        assert slow.core.handle(Abort(["one"])) == [], "twice is as good as once"
        slow.hold.set()
        assert slow.woken.get(timeout=20)
        assert set(slow.run()) == {"two"}
        slow.submit("three", "[0-9]{2}")
        slow.submit("four", "[0-9]{3}")
        assert len(finishes(slow.core.handle(Abort([], everything=True)))) == 2
        assert len(slow.queue) == 0


def test_no_more_wait_for_grammars_than_may(folder: Path) -> None:
    with Slow(folder) as slow:
        for number in range(4):
            assert slow.submit(f"r{number}", f"[a-z]{{{number + 1}}}") == []
        (refused,) = slow.submit("r4", "a")
        assert refused is not None
        assert (refused.status, refused.code) == (429, "queue_full")


def test_grammars_are_counted(folder: Path) -> None:
    with engine(folder) as made:
        for _ in range(3):
            made.generate(input_ids=PROMPT, sampling_params={"regex": "[ab]{3}"})
        with pytest.raises(RequestError):
            made.generate(input_ids=PROMPT, sampling_params={"regex": "("})
        stats = made.stats()
    assert stats["grammars_compiled"] == stats["grammars_cached"] == 1
    assert stats["grammar_cache_hits"] == 2
    assert stats["num_grammar_waiting"] == 0
