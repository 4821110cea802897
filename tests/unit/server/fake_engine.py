"""A stand-in for the engine's process: it says what a test scripts, a byte a token.

Only the server is under test here; it sees of the engine what ``EngineClient`` shows.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tupelo.engine.client import Health
from tupelo.engine.messages import EngineInfo, Finish, Output, Scores, Timing
from tupelo.errors import EngineUnavailable, QueueTimeout, RequestError
from tupelo.request import FinishReason, Request
from tupelo.text.tokenizer import Tokenizer, TokenizerFacts

BOS, EOS = "<s>", "</s>"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
Script = Callable[[Request], bytes]


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, in the order of the byte-level alphabet; then BOS and EOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([BOS, EOS])
    facts = TokenizerFacts(
        special_tokens={"bos_token": BOS, "eos_token": EOS},
        eos_token_ids=(len(alphabet) + 1,),
        chat_templates={"default": TEMPLATE},
    )
    return Tokenizer(backend, facts)


LIVE_COUNTERS = ("prefill_tokens", "decode_tokens", "cached_tokens", "finished", "aborted")


class FakeEngine:
    """Answers each request with ``script(request)`` and an end token.

    Attributes:
        requests: all that came. aborted: ids of those that were not finished.
        delay_s: before each token. live: ids of those under way.
        answers: an operator's call -> its answer, or its error. controls: such calls that came.
        refuse: a finish that ends each request at once.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.num_dropped = 0
        self.reset()

    def reset(self) -> None:
        """Be as new."""
        self.script: Script = lambda request: b"Hello, world."
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self.live: set[str] = set()
        self.delay_s = 0.0
        self.ready = True
        self.refuse: Finish | None = None
        self.broken: Exception | None = None
        self.num_controls = 0
        self.answers: dict[str, Any] = {}
        self.controls: list[tuple[str, dict[str, Any]]] = []
        self.paused = 0
        self._failures: dict[str, RequestError] = {}
        self._served: set[str] = set()
        self._stops: dict[str, asyncio.Event] = {}
        self._dead = False

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            model_path="/secret/place/tiny-model",
            tokenizer_path="/secret/place/tiny-model",
            architecture="TinyForCausalLM",
            model_type="tiny",
            backend="cpu",
            dtype="float32",
            vocab_size=self.tokenizer.vocab_size,
            context_length=512,
            eos_token_ids=list(self.tokenizer.eos_token_ids),
            page_size=16,
            num_pages=[64],
            max_total_tokens=1024,
            max_running_requests=8,
            kernels=[],
            memory={},
            versions={},
            phases_s={},
            generation_defaults={"temperature": 0.6, "top_k": 20.0},
        )

    def health(self) -> Health:
        return Health(self.ready, "" if self.ready else "frozen")

    async def control(self, action: str, *, timeout_s: float = 10.0, **args: Any) -> Any:
        self.num_controls += 1
        if action in self.answers:
            self.controls.append((action, args))
            answer = self.answers[action]
            if isinstance(answer, Exception):
                raise answer
            return answer
        if action == "flush_cache":
            return not self.live
        if action == "live":
            tree = {"nodes": [], "num_nodes": 0, "hidden": 0}
            return {
                "now_s": 0.0,
                "steps": [],
                "requests": [],
                "tree": tree,
                "stats": self._stats() | dict.fromkeys(LIVE_COUNTERS, 0),
            }
        return self._stats()

    def _stats(self) -> dict[str, Any]:
        return {
            "num_running": len(self.live),
            "num_waiting": 0,
            "pages_total": [64],
            "pages_owned": [len(self.live)],
            "pages_free": [64 - len(self.live)],
            "pages_cached": [0],
            "pages_evicted": [0],
            "page_size": 16,
            "retractions": 0,
            "steps": 7,
            "paused": self.paused,
        }

    async def abort(self, rids: Iterable[str] = (), *, everything: bool = False) -> None:
        for rid in list(self._stops) if everything else rids:
            self._stops[rid].set()

    def expire(self, rid: str) -> None:
        """End a request that waits: here, one that has brought no token yet."""
        if rid not in self._served:
            self.fail(rid, QueueTimeout("the request waited too long"))

    def fail(self, rid: str, error: RequestError) -> None:
        """End a request with this error."""
        if rid in self.live:
            self._failures[rid] = error
            self._stops[rid].set()

    def die(self) -> None:
        """Fail every request from now on."""
        self._dead = True
        self.ready = False

    async def submit(self, request: Request) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        if self.broken is not None:
            raise self.broken
        self.live.add(request.rid)
        self._stops[request.rid] = asyncio.Event()
        finished = False
        try:
            for output in self._outputs(request):
                await self._pause(request.rid)
                if self._dead:
                    raise EngineUnavailable("the engine process died (exit code -9)")
                if request.rid in self._failures:
                    raise self._failures[request.rid]
                if self._stops[request.rid].is_set():
                    finished = True
                    yield Output(request.rid, [], _finish(FinishReason.ABORT, "aborted", 499))
                    return
                finished = output.finish is not None
                self._served.add(request.rid)
                yield output
        finally:
            self.live.discard(request.rid)
            if not finished:
                self.aborted.append(request.rid)

    async def _pause(self, rid: str) -> None:
        if self.delay_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stops[rid].wait(), self.delay_s)
        else:
            await asyncio.sleep(0)

    def _outputs(self, request: Request) -> list[Output]:
        """What the engine would send: a token at a time, or all at once where nobody reads."""
        if self.refuse is not None:
            return [Output(request.rid, [], self.refuse)]
        tokens = [self.tokenizer.token_to_id(c) for c in _alphabet(self.script(request))]
        ids = [token for token in tokens if token is not None]
        eos = self.tokenizer.eos_token_ids[0]
        limit = request.params.max_new_tokens
        assert limit is not None
        finish = Finish(FinishReason.STOP, matched=eos)
        ids = [*ids, eos]
        for place, token in enumerate(ids):
            if token in request.params.stop_token_ids:
                ids, finish = ids[: place + 1], Finish(FinishReason.STOP, matched=token)
                break
        if len(ids) > limit:
            ids, finish = ids[:limit], Finish(FinishReason.LENGTH)
        groups = [[token] for token in ids] if request.stream and ids else [ids]
        return [
            Output(
                request.rid,
                group,
                finish if number == len(groups) - 1 else None,
                cached_tokens=2,
                scores=_scores(group, request) if request.logprobs else None,
                prompt_scores=_prompt_scores(request) if number == 0 else None,
                timing=_timing(number, len(groups)),
            )
            for number, group in enumerate(groups)
        ]


def _timing(number: int, count: int) -> Timing | None:
    """With the first output and with the last."""
    if number == count - 1:
        return Timing(0.001, 0.002, 0.003)
    return Timing(0.001, 0.002) if number == 0 else None


def _alphabet(data: bytes) -> list[str]:
    """Bytes as the byte-level alphabet writes them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    table = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [table[b] for b in data]


def _scores(ids: list[int], request: Request) -> Scores:
    """A score that depends on the token alone; an impossible token among the alternatives."""
    num_top, named = request.top_logprobs, request.token_ids_logprob
    return Scores(
        [-token / 100 for token in ids],
        [
            [(token, -token / 100), (0, -math.inf), *((i, -9.0) for i in range(1, num_top))][
                :num_top
            ]
            for token in ids
        ],
        [[-(token + other) / 100 for other in named] for token in ids] if named else [],
    )


def _prompt_scores(request: Request) -> Scores | None:
    start = request.prompt_logprobs_from
    if start is None:
        return None
    found = _scores(list(request.input_ids[start:]), request)
    if start > 0:
        return found
    wanted = [[], *found.wanted[1:]] if found.wanted else []
    return Scores([None, *found.logprobs[1:]], [[], *found.top[1:]], wanted)


def _finish(reason: FinishReason, message: str, status: int) -> Finish:
    return Finish(reason, message=message, status=status, code=message)
