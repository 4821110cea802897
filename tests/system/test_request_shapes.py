"""Whatever a request asks for, its stream put together is the unstreamed reply, and both count the
tokens that another tokenizer counts.

The table: chat, completions and the native route, one sample or two, with and without
log-probabilities, each with every way to end or shape the text. All of them run at once on one
server, so that every one is also computed beside others.
"""

import asyncio
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess
from transformers import AutoTokenizer

PROMPT = "One, two, three,"
MESSAGES = [{"role": "user", "content": "Name three colours."}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "n": {"type": "integer"}},
    "required": ["colour"],
    "additionalProperties": False,
}
ENDINGS: dict[str, dict[str, Any]] = {
    "length": {},
    "stop": {"stop": ["ve,", "and", " is"]},
    "kept stop": {"stop": "e", "no_stop_trim": True, "min_tokens": 2},
    "stop_regex": {"stop_regex": "[aeiou][a-z]"},
    "stop_token_ids": {"stop_token_ids": [30, 28, 198]},
    "regex": {"regex": "(red|green) [0-9]{3}"},
    "json": {"json_schema": json.dumps(SCHEMA)},
}
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

    @property
    def length(self) -> int:
        """Tokens at most: what has a form gets room to end."""
        return 12 if self.ending in ("regex", "json") else 8

    def body(self) -> dict[str, Any]:
        """Its JSON object, without ``stream``."""
        common = {"seed": 7 + self.n, "temperature": 0.9, **ENDINGS[self.ending]}
        if self.route == "native":
            return self._native(common)
        body = {"max_tokens": self.length, "n": self.n, "return_token_ids": True, **common}
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
            "sampling_params": {"max_new_tokens": self.length, "n": self.n, **params},
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
def replies(server: ServerProcess) -> Replies:
    """Each shape's unstreamed and streamed reply, all asked for at once."""
    return asyncio.run(_ask_all(server.url))


@pytest.fixture(scope="module")
def tokenizer(demo_gguf: Path) -> Iterator[Any]:
    """transformers' own reading of the demo model's vocabulary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the gguf package, about numpy
        yield AutoTokenizer.from_pretrained(demo_gguf.parent, gguf_file=demo_gguf.name)


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
            assert len(sample.ids) == shape.length


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
            assert text in {f"{c} {i:03}" for c in ("red", "green") for i in range(1000)}
        if shape.ending == "json" and sample.finish == "stop":
            assert json.loads(text)["colour"] in ("red", "green", "blue")
        if shape.logprobs and shape.route == "completion":
            tokens = "".join(row[0] for row in (*sample.prompt_rows, *sample.rows))
            assert tokens == (sample.text if shape.echo else text)


async def _ask_all(url: str) -> Replies:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=110, limits=limits) as client:
        pairs = [
            asyncio.gather(_whole(client, shape), _streamed(client, shape)) for shape in SHAPES
        ]
        found = await asyncio.gather(*pairs)
    return {shape: (a, b) for shape, (a, b) in zip(SHAPES, found, strict=True)}


async def _whole(client: httpx.AsyncClient, shape: Shape) -> Reply:
    reply = await client.post(ROUTES[shape.route], json=shape.body())
    assert reply.status_code == 200, f"{shape}: {reply.text}"
    value = reply.json()
    if shape.route == "native":
        return _native_reply(dict(enumerate(value if isinstance(value, list) else [value])))
    samples = {choice["index"]: _folded([choice]) for choice in value["choices"]}
    return Reply(samples, value["usage"]["prompt_tokens"], value["usage"]["completion_tokens"])


async def _streamed(client: httpx.AsyncClient, shape: Shape) -> Reply:
    body = {**shape.body(), "stream": True}
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
