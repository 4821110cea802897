"""The offline engine: a model in this process, without HTTP.

::

    with Engine(model="…") as engine:
        engine.generate("The capital of France is", {"temperature": 0, "max_new_tokens": 8})["text"]

Replies have the shape of SGLang's native ``/generate``: ``text``, ``output_ids``, ``meta_info``.
"""

import asyncio
import itertools
import logging
import queue
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from tupelo.backend import Backend
from tupelo.config import EngineConfig
from tupelo.engine.build import Source, build
from tupelo.engine.core import EngineCore
from tupelo.engine.encode import Builder, PoolingCalls
from tupelo.engine.grammars import take_grammar
from tupelo.engine.mail import Address, Item, LoopPost, Post, ThreadPost, deliver
from tupelo.engine.messages import (
    Abort,
    Control,
    FromEngine,
    Output,
    Outputs,
    Reply,
    Shutdown,
    Submit,
    ToEngine,
    refusal,
)
from tupelo.engine.reply import ReplyBuilder
from tupelo.engine.resident import Resident
from tupelo.engine.task import check_purpose
from tupelo.errors import ConfigError, EngineUnavailable, InvalidRequest
from tupelo.request import Grammar, Request, SamplingParams
from tupelo.text.tokenizer import Tokenizer, load_tokenizer

logger = logging.getLogger(__name__)

Params = dict[str, Any] | SamplingParams | None

GROUP = 64
"""Requests of one message, and ..."""

MESSAGES_A_STEP = 4
"""... messages that are acted on between two steps: the device works while the rest are queued."""

SWITCH_S = 0.0005
"""After so long the caller's threads let the engine's go on, which has a device to feed."""

POLL_S = 0.001
"""Between two looks at how long a message is worth waiting for."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample that a call asks for: its request and how its reply is made."""

    request: Request
    builder: Builder


class Engine(PoolingCalls):
    """A model, served to this process.

    Args:
        config: everything at once; or give options by name.
        backend: instead of the one that the config names.
        source: instead of what ``config.model`` names.
        options: fields of ``EngineConfig``.

    Raises:
        TupeloError: anything that is wrong with model, options, backend or memory.
    """

    def __init__(
        self,
        config: EngineConfig | None = None,
        *,
        backend: Backend | None = None,
        source: Source | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise ConfigError("give a config or options, not both")
        try:
            self.config = config or EngineConfig(**options)
        except TypeError as error:
            raise ConfigError(f"unknown engine option: {error}") from None
        self._built = build(self.config, backend=backend, source=source)
        self.info = self._built.info
        path = self.info.tokenizer_path
        self.tokenizer: Tokenizer | None = load_tokenizer(path) if path else None
        self._inbox: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()  # None only wakes
        self._core = EngineCore(self._built, lambda: self._inbox.put(None), trusted=True)
        self._addresses: dict[str, Address] = {}
        self._thread_post = ThreadPost()
        self._loop_posts: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPost] = (
            WeakKeyDictionary()
        )
        self._replies: dict[int, queue.SimpleQueue[Reply | None]] = {}  # None: see ``_why``
        self._over = threading.Event()  # nothing that is submitted from now on is seen
        self._why = "the engine has been shut down"
        self._numbers = itertools.count(1)
        # By default a thread that computes keeps others waiting for 5 ms, as long as a step takes.
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
        self._thread = threading.Thread(target=self._run, name="tupelo-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.shutdown()

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        stream: bool = False,
        **wanted: Any,
    ) -> Any:
        """Generate for one prompt or for several.

        Args:
            prompt: text, or a list of texts; or give ``input_ids``.
            sampling_params: names and values as in ``SamplingParams``, and one of ``json_schema``,
                ``regex``, ``ebnf``, ``structural_tag`` and ``choice``; one for all, or a list.
            input_ids: ids, or a list of lists of ids.
            stream: return an iterator of cumulative replies; for several prompts each reply has its
                ``index``.
            wanted: ``return_logprob``, ``logprob_start_len``, ``top_logprobs_num``,
                ``token_ids_logprob``, ``salt``, ``priority``.

        Returns:
            A reply, or a list of replies: one a prompt, or with ``n`` above 1, n a prompt in a row.

        Raises:
            InvalidRequest: bad values. RequestError: a request that failed in the engine.
        """
        wanted["stream"] = stream
        samples, single = self._samples(prompt, input_ids, sampling_params, wanted)
        replies = self._stream(samples, single)
        if stream:
            return replies
        last: dict[int, dict[str, Any]] = {}
        for reply in replies:
            last[reply.get("index", 0)] = reply
        for reply in last.values():
            reply.pop("index", None)
        return last[0] if single else [last[i] for i in range(len(samples))]

    async def async_generate(
        self,
        prompt: str | Sequence[str] | None = None,
        sampling_params: Params | Sequence[Params] = None,
        *,
        stream: bool = False,
        **arguments: Any,
    ) -> Any:
        """``generate`` for an event loop: a reply, or with ``stream`` an asynchronous iterator."""
        if stream:
            return self._async_stream(prompt, sampling_params, arguments)
        return await asyncio.to_thread(self.generate, prompt, sampling_params, **arguments)

    def flush_cache(self) -> bool:
        """Empty the prefix cache; refused (False) while requests run."""
        return bool(self._control("flush_cache"))

    def pause_generation(self, mode: str = "abort") -> int:
        """Compute nothing until ``continue_generation``; requests that come wait.

        Args:
            mode: what becomes of live requests: ``abort`` ends them, ``retract`` computes them
                again afterwards, ``in_place`` keeps their K/V.

        Returns:
            How many requests are held.

        Raises:
            InvalidRequest: no such mode.
        """
        return int(self._control("pause", mode=mode))

    def continue_generation(self) -> None:
        """Go on after ``pause_generation``."""
        self._control("resume")

    def update_weights_from_disk(self, model_path: str, *, abort_requests: bool = False) -> int:
        """Serve other weights of the same model, from a folder inside ``weight_roots``.

        Requests that run are computed again with them, from the tokens that they have. Returns how
        many that are.

        Args:
            model_path: a folder with safetensors.
            abort_requests: end live requests instead.

        Raises:
            InvalidRequest: a path or weights that cannot be taken; nothing has changed.
            RequestFailed: they could not be loaded; the old ones are served.
        """
        return int(self._control("update_weights", path=model_path, abort_requests=abort_requests))

    def release_memory_occupation(self, tags: Sequence[str] | None = None) -> None:
        """Give device memory back while nothing runs; requests that come wait.

        Args:
            tags: ``"kv_cache"``, or ``"weights"``, with which the K/V go too; None means both.

        Raises:
            InvalidRequest: an unknown tag, or requests run.
        """
        self._control("release_memory", tags=tags)

    def resume_memory_occupation(self, tags: Sequence[str] | None = None) -> None:
        """Take the memory again; weights are loaded from where they came from.

        Raises:
            InvalidRequest: an unknown tag, or the K/V without the weights.
            RequestFailed: it does not fit any more.
        """
        self._control("resume_memory", tags=tags)

    def start_profile(self, **options: Any) -> None:
        """Record the next steps into a file in ``profile_dir``.

        Args:
            options: see ``Profiling.start``.

        Raises:
            InvalidRequest: one is recorded already, or an option that cannot be taken.
        """
        self._control("start_profile", **options)

    def stop_profile(self) -> str:
        """End the recording; returns the file's name inside ``profile_dir``.

        Raises:
            InvalidRequest: none runs.
        """
        return str(self._control("stop_profile"))

    def stats(self) -> dict[str, Any]:
        """Counters and gauges; see ``EngineCore.stats``."""
        return dict(self._control("stats"))

    def shutdown(self) -> None:
        """End the engine's thread and give its memory back, so that another model can be loaded;
        requests in flight fail. May be called twice."""
        self._inbox.put(Shutdown())
        self._thread.join()

    # Requests

    def _samples(
        self,
        prompt: str | Sequence[str] | None,
        input_ids: Any,
        params: Any,
        wanted: dict[str, Any],
    ) -> tuple[list[Sample], bool]:
        """The samples that a call asks for, and whether it asked for a single one."""
        prompts, single = self._prompts(prompt, input_ids)
        given = list(params) if isinstance(params, list | tuple) else [params] * len(prompts)
        if len(given) != len(prompts):
            raise InvalidRequest(
                f"{len(given)} sampling_params for {len(prompts)} prompts", param="sampling_params"
            )
        checked = [self._params(p) for p in given]
        samples = [
            self._sample(ids, p, grammar, sample, wanted)
            for ids, (p, grammar) in zip(prompts, checked, strict=True)
            for sample in range(p.n)
        ]
        return samples, single and len(samples) == 1

    def _prompts(self, prompt: Any, input_ids: Any) -> tuple[list[tuple[int, ...]], bool]:
        if (prompt is None) == (input_ids is None):
            raise InvalidRequest("give either prompt or input_ids", param="prompt")
        if input_ids is not None:
            single = not input_ids or isinstance(input_ids[0], int)
            lists = [input_ids] if single else input_ids
            return [tuple(ids) for ids in lists], single
        if self.tokenizer is None:
            raise InvalidRequest("the model has no tokenizer: give input_ids", param="prompt")
        single = isinstance(prompt, str)
        texts = [prompt] if single else list(prompt)
        return [tuple(self.tokenizer.encode(text)) for text in texts], single

    def _params(self, params: Params) -> tuple[SamplingParams, Grammar | None]:
        if not isinstance(params, dict):
            return params or SamplingParams(), None
        values = {("seed" if k == "sampling_seed" else k): v for k, v in params.items()}
        grammar = take_grammar(values)
        return SamplingParams.checked(values, vocab_size=self.info.vocab_size), grammar

    def _sample(
        self,
        ids: tuple[int, ...],
        params: SamplingParams,
        grammar: Grammar | None,
        sample: int,
        wanted: dict[str, Any],
    ) -> Sample:
        """One request of the engine; sample i of a seeded prompt has seed + i."""
        logprobs = bool(wanted.get("return_logprob", False))
        start = int(wanted.get("logprob_start_len", -1))
        seed = None if params.seed is None else params.seed + sample
        request = Request(
            rid=f"local-{next(self._numbers)}",
            input_ids=ids,
            params=replace(params, n=1, seed=seed),
            salt=str(wanted.get("salt", "")),
            priority=int(wanted.get("priority", 0)),
            # Text that ends the output is found here, not in the engine.
            stream=bool(wanted.get("stream")) or params.stops_on_text,
            logprobs=logprobs,
            top_logprobs=int(wanted.get("top_logprobs_num", 0)) if logprobs else 0,
            token_ids_logprob=tuple(wanted.get("token_ids_logprob") or ()) if logprobs else (),
            prompt_logprobs_from=start if logprobs and start >= 0 else None,
            grammar=grammar,
        )
        check_purpose(request, self.info.pooling)
        request = request.checked(
            vocab_size=self.info.vocab_size, context_length=self.info.context_length
        )
        return Sample(request, ReplyBuilder(self.tokenizer, request))

    def _collect(self, requests: Sequence[Request], builders: Sequence[Builder]) -> list[Any]:
        pairs = zip(requests, builders, strict=True)
        samples = [Sample(request, builder) for request, builder in pairs]
        replies = {reply.pop("index"): reply for reply in self._stream(samples, False)}
        return [replies[index] for index in range(len(samples))]

    def _stream(self, samples: Sequence[Sample], single: bool) -> Iterator[dict[str, Any]]:
        """Submit, and yield cumulative replies as outputs come."""
        inbox: queue.SimpleQueue[list[Item]] = queue.SimpleQueue()
        self._open(samples, self._thread_post, inbox)
        open_samples = set(range(len(samples)))
        try:
            while open_samples:
                for index, output in inbox.get():
                    if index in open_samples:
                        reply, ended = self._advance(samples[index], output)
                        if ended:
                            open_samples.remove(index)
                        yield reply if single else {"index": index, **reply}
        finally:
            self._close(samples, open_samples)

    async def _async_stream(
        self, prompt: Any, params: Any, arguments: dict[str, Any]
    ) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        input_ids = arguments.pop("input_ids", None)
        wanted = (prompt, input_ids, params, arguments | {"stream": True})
        if prompt is None:  # ids are checked at once; a text may take its time
            samples, single = self._samples(*wanted)
        else:
            samples, single = await asyncio.to_thread(self._samples, *wanted)
        inbox: asyncio.Queue[list[Item]] = asyncio.Queue()
        post = self._loop_posts.setdefault(loop, LoopPost(loop))
        self._open(samples, post, inbox)
        open_samples = set(range(len(samples)))
        try:
            while open_samples:
                for index, output in await inbox.get():
                    if index in open_samples:
                        reply, ended = self._advance(samples[index], output)
                        if ended:
                            open_samples.remove(index)
                        yield reply if single else {"index": index, **reply}
        finally:
            self._close(samples, open_samples)

    def _open(self, samples: Sequence[Sample], post: Post, inbox: Any) -> None:
        """Submit, in groups; outputs go to ``inbox`` by way of ``post``."""
        requests = [sample.request for sample in samples]
        for index, request in enumerate(requests):
            self._addresses[request.rid] = Address(post, inbox, index)
        if self._over.is_set():  # else the engine's thread, when it ends, finds the addresses
            self._close(samples, set())
            raise EngineUnavailable(self._why)
        for start in range(0, len(requests), GROUP):
            self._inbox.put(Submit(requests[start : start + GROUP]))

    def _advance(self, sample: Sample, output: Output | None) -> tuple[dict[str, Any], bool]:
        """Take an output in; returns the reply so far, and whether the sample is over."""
        if output is None:
            raise EngineUnavailable(self._why)
        ended = sample.builder.take(output)
        return sample.builder.reply(), ended

    def _close(self, samples: Sequence[Sample], unfinished: set[int]) -> None:
        rids = [samples[index].request.rid for index in unfinished]
        # A sample that a stop string ended is still running in the engine.
        rids += [s.request.rid for s in samples if s.builder.cut]
        if rids:
            self._inbox.put(Abort(rids))
        for sample in samples:
            self._addresses.pop(sample.request.rid, None)

    # The engine's thread

    def _control(self, action: str, **args: Any) -> Any:
        number = next(self._numbers)
        answer: queue.SimpleQueue[Reply | None] = queue.SimpleQueue()
        self._replies[number] = answer
        self._inbox.put(Control(number, action, args))
        reply = None if self._over.is_set() else answer.get()
        if reply is None:
            self._replies.pop(number, None)
            raise EngineUnavailable(self._why)
        if not reply.ok:
            raise refusal(reply)
        return reply.value

    def _run(self) -> None:
        try:
            while not self._core.stopping:
                self._take_messages()
                if self._core.has_work() and not self._core.stopping:
                    self._deliver(self._core.step())
        except Exception:
            logger.exception("the engine has failed")
            self._why = "the engine has failed; the log has the details"
        finally:
            self._over.set()
            deliver([(address, None) for address in list(self._addresses.values())])
            for answer in list(self._replies.values()):
                answer.put(None)
            self._core.close()
            Resident(self.config, self._built).release()

    def _take_messages(self) -> None:
        """Act on what has come; wait for more when idle, or where the next step is better late."""
        block = not self._core.has_work()
        with suppress(queue.Empty):
            for _ in range(MESSAGES_A_STEP):
                self._act(self._inbox.get(block))
                block = False
        while (patience := self._core.patience_s()) > 0:
            with suppress(queue.Empty):
                self._act(self._inbox.get(timeout=min(patience, POLL_S)))

    def _act(self, message: ToEngine | None) -> None:
        if message is not None:
            self._deliver(self._core.handle(message))

    def _deliver(self, messages: Sequence[FromEngine]) -> None:
        for message in messages:
            if isinstance(message, Outputs):
                found = [(self._addresses.get(output.rid), output) for output in message.items]
                deliver([(address, output) for address, output in found if address is not None])
            elif isinstance(message, Reply):
                self._replies.pop(message.number).put(message)
