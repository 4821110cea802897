"""Whatever a request asks for, its stream put together is the unstreamed reply, and both count the
tokens that another tokenizer counts.

The table: chat, completions and the native route, one sample or two, with and without
log-probabilities, each with every way to end or shape the text. All of them run at once on one
server, so that every one is also computed beside others. The model is tiny and random: a bias makes
it write a few letters, some of them in several tokens.
"""

import asyncio
import itertools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_letter_model
from transformers import PreTrainedTokenizerFast

PROMPT = "one two three, é"
MESSAGES = [{"role": "user", "content": "Say it: 日本語."}]
LETTERS = "abcde é日本,.1"
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "n": {"type": "integer"}},
    "required": ["colour"],
    "additionalProperties": False,
}
ENDINGS: dict[str, dict[str, Any]] = {
    "length": {},
    "stop": {"stop": ["ab", "本", " ,"]},
    "kept stop": {"stop": "c", "no_stop_trim": True, "min_tokens": 2},
    "stop_regex": {"stop_regex": "[bd]+.é|a[a-e]"},
    "stop_token_ids": {"stop_token_ids": [70, 71]},
    "regex": {"regex": "(red|green) [0-9]{3}"},
    "regex, stopped": {"regex": "[a-e]{6,60}", "stop": ["ab", "cd"]},
    "json": {"json_schema": json.dumps(SCHEMA)},
}
LENGTH = 40
ROUTES = {"chat": "/v1/chat/completions", "completion": "/v1/completions", "native": "/generate"}


@dataclass
class Sample:
    """One sample of a reply, whichever route it came from.

    Attributes:
        prompt_rows: log-probabilities of the prompt, where they were asked for. rows: of the text.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish: Any = None
    matched: Any = None
    prompt_rows: list[Any] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)


@dataclass
class Reply:
    """A reply, streamed or not."""

    samples: dict[int, Sample]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Shape:
    """One request of the table."""

    route: str
    n: int
    logprobs: bool
    ending: str

    @property
    def echo(self) -> bool:
        """Half of the completions repeat their prompt; of the native ones score it."""
        return self.route != "chat" and (self.n == 2) == self.logprobs

    def body(self, bias: dict[str, float]) -> dict[str, Any]:
        """Its JSON object, without ``stream``."""
        common = {"seed": 7 + self.n, "logit_bias": bias, **ENDINGS[self.ending]}
        if self.route == "native":
            return self._native(common)
        body = {"max_tokens": LENGTH, "n": self.n, "return_token_ids": True, **common}
        if self.route == "chat":
            scores = {"logprobs": True, "top_logprobs": 2} if self.logprobs else {}
            return {"messages": MESSAGES, **body, **scores}
        scores = {"logprobs": 2} if self.logprobs else {}
        return {"prompt": PROMPT, "echo": self.echo, **body, **scores}

    def _native(self, common: dict[str, Any]) -> dict[str, Any]:
        names = {"seed": "sampling_seed", "min_tokens": "min_new_tokens"}
        params = {names.get(name, name): value for name, value in common.items()}
        body: dict[str, Any] = {
            "text": PROMPT,
            "sampling_params": {"max_new_tokens": LENGTH, "n": self.n, **params},
        }
        if self.logprobs:
            body |= {"return_logprob": True, "top_logprobs_num": 2, "token_ids_logprob": [5, 9]}
            body["logprob_start_len"] = 0 if self.echo else -1
        return body

    def __str__(self) -> str:
        words = [self.route, f"n={self.n}", self.ending]
        words += ["logprobs"] * self.logprobs + ["echo"] * self.echo
        return " ".join(words)


SHAPES = [
    Shape(route, n, logprobs, ending)
    for route, n, logprobs, ending in itertools.product(ROUTES, (1, 2), (False, True), ENDINGS)
]
Replies = dict[Shape, tuple[Reply, Reply]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreTrainedTokenizerFast]:
    """The model's folder, and transformers' own reading of its tokenizer."""
    folder = tmp_path_factory.mktemp("letters")
    return folder, write_letter_model(folder)


@pytest.fixture(scope="module")
def tokenizer(model: tuple[Path, PreTrainedTokenizerFast]) -> Any:
    return model[1]


@pytest.fixture(scope="module")
def replies(model: tuple[Path, PreTrainedTokenizerFast]) -> Replies:
    """Each shape's unstreamed and streamed reply, all asked for at once."""
    folder, tokenizer = model
    ids = {token for letter in LETTERS for token in tokenizer(letter).input_ids}
    flags = ["--load-format", "dummy", "--check-integrity", "--batch-invariant"]
    with ServerProcess(folder, folder, *flags) as server:
        return asyncio.run(_ask_all(server.url, {str(token): 25.0 for token in ids}))


def test_the_table_is_long_enough() -> None:
    assert len(SHAPES) == len(set(map(str, SHAPES))) >= 60


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_stream_is_the_reply(replies: Replies, shape: Shape) -> None:
    whole, streamed = replies[shape]
    assert sorted(whole.samples) == list(range(shape.n))
    assert streamed.samples == whole.samples
    assert streamed.prompt_tokens == whole.prompt_tokens
    assert streamed.completion_tokens == whole.completion_tokens


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tokens_are_counted_as_another_tokenizer_does(
    replies: Replies, shape: Shape, tokenizer: Any
) -> None:
    whole, _ = replies[shape]
    asked = tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=False
    ) if shape.route == "chat" else PROMPT  # fmt: skip
    assert whole.prompt_tokens == len(tokenizer(asked).input_ids)
    assert whole.completion_tokens == sum(len(s.ids) for s in whole.samples.values())
    for sample in whole.samples.values():
        text = sample.text
        if shape.echo and shape.route == "completion":
            assert text.startswith(PROMPT)
            text = text[len(PROMPT) :]
        made = tokenizer.decode(sample.ids, skip_special_tokens=True)
        assert made.startswith(text)
        if sample.finish == "length":
            assert made == text
            assert len(sample.ids) == LENGTH


def test_endings_of_every_kind_come(replies: Replies) -> None:
    found = {
        (s.ending, sample.finish) for s, (r, _) in replies.items() for sample in r.samples.values()
    }
    assert {(ending, "stop") for ending in ENDINGS if ending != "length"} <= found
    assert ("length", "length") in found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_ending_is_what_was_asked_for(replies: Replies, shape: Shape) -> None:
    wanted = ENDINGS[shape.ending]
    for sample in replies[shape][0].samples.values():
        text = sample.text.removeprefix(PROMPT)
        if sample.matched is not None and shape.ending in ("stop", "kept stop"):
            assert (sample.matched in text) == (shape.ending == "kept stop")
        if shape.ending == "stop_regex" and sample.finish == "stop":
            assert sample.matched == wanted["stop_regex"]
        if shape.ending == "regex":
            assert sample.finish == "stop"
            assert re.fullmatch(wanted["regex"], text)
        if shape.ending == "json" and sample.finish == "stop":
            assert json.loads(text)["colour"] in ("red", "green", "blue")
        if shape.logprobs and shape.route == "completion":
            tokens = "".join(row[0] for row in (*sample.prompt_rows, *sample.rows))
            shown = sample.text if shape.echo else text
            cut = shown.removesuffix("\ufffd")  # a character that never was complete is no token's
            assert tokens in (shown, cut)


async def _ask_all(url: str, bias: dict[str, float]) -> Replies:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=110, limits=limits) as client:
        pairs = [
            asyncio.gather(
                _whole(client, shape, shape.body(bias)), _streamed(client, shape, shape.body(bias))
            )
            for shape in SHAPES
        ]
        found = await asyncio.gather(*pairs)
    return {shape: (a, b) for shape, (a, b) in zip(SHAPES, found, strict=True)}


async def _whole(client: httpx.AsyncClient, shape: Shape, body: dict[str, Any]) -> Reply:
    reply = await client.post(ROUTES[shape.route], json=body)
    assert reply.status_code == 200, f"{shape}: {reply.text}"
    value = reply.json()
    if shape.route == "native":
        return _native_reply(dict(enumerate(value if isinstance(value, list) else [value])))
    samples = {choice["index"]: _folded([choice]) for choice in value["choices"]}
    return Reply(samples, value["usage"]["prompt_tokens"], value["usage"]["completion_tokens"])


async def _streamed(client: httpx.AsyncClient, shape: Shape, body: dict[str, Any]) -> Reply:
    body = {**body, "stream": True}
    if shape.route != "native":
        body["stream_options"] = {"include_usage": True}
    events = []
    async with client.stream("POST", ROUTES[shape.route], json=body) as reply:
        assert reply.status_code == 200, f"{shape}: {await reply.aread()!r}"
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line.removeprefix("data: ")))
    if shape.route == "native":
        return _native_reply({event.get("index", 0): event for event in events})
    parts: dict[int, list[Any]] = {}
    for choice in (c for event in events for c in event["choices"]):
        parts.setdefault(choice["index"], []).append(choice)
    usage = events[-1]["usage"]
    samples = {index: _folded(choices) for index, choices in parts.items()}
    return Reply(samples, usage["prompt_tokens"], usage["completion_tokens"])


def _folded(choices: list[dict[str, Any]]) -> Sample:
    """The choices of one index, of a whole reply or of all chunks, as one sample."""
    sample = Sample()
    for choice in choices:
        message = choice.get("message") or choice.get("delta")
        sample.text += (message or {}).get("content") or choice.get("text") or ""
        sample.ids += choice.get("token_ids") or choice.get("response_token_ids") or []
        if choice["finish_reason"]:
            assert sample.finish is None, "one finish a choice"
            sample.finish, sample.matched = choice["finish_reason"], choice["matched_stop"]
        scores = choice.get("logprobs") or {}
        sample.rows += [
            (row["token"], row["bytes"], row["logprob"], row["top_logprobs"])
            for row in scores.get("content") or []
        ]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        sample.rows += zip(*(scores.get(name, []) for name in names), strict=True)
    return sample


def _native_reply(items: dict[int, dict[str, Any]]) -> Reply:
    samples = {}
    for index, item in items.items():
        meta = item["meta_info"]
        finish = meta["finish_reason"]
        sides = {
            side: [meta.get(f"{side}_{kind}", []) for kind in
                   ("token_logprobs", "top_logprobs", "token_ids_logprobs")]
            for side in ("input", "output")
        }  # fmt: skip
        samples[index] = Sample(
            text=item["text"],
            ids=item["output_ids"],
            finish=finish["type"],
            matched=finish.get("matched"),
            prompt_rows=sides["input"],
            rows=sides["output"],
        )
    metas = [item["meta_info"] for item in items.values()]
    return Reply(
        dict(sorted(samples.items())),
        metas[0]["prompt_tokens"],
        sum(meta["completion_tokens"] for meta in metas),
    )
