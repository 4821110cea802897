"""What one request asks for, and the one table of numeric bounds.

``SamplingParams`` and ``Request`` are plain data that travel between processes as msgspec messages.
Every number that a client can send is checked here and nowhere else (``SamplingParams.checked``,
``Request.checked``): a value outside its bounds raises ``InvalidRequest`` naming the field, before
anything is allocated. Imports neither torch nor any other part of Tupelo but ``errors``,
``pooling`` and ``thinking``.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from tupelo.errors import ContextLengthExceeded, InvalidRequest
from tupelo.pooling import PoolingParams
from tupelo.thinking import ThinkingBudget

GREEDY_TEMPERATURE = 1e-6
"""A temperature below this means greedy, as SGLang has it."""

MAX_STOP_STRINGS = 32
MAX_STOP_LENGTH = 1024
MAX_STOP_REGEX_LENGTH = 256
MAX_STOP_TOKENS = 1024
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 128
MAX_LOGPROB_IDS = 1024
MAX_LOGPROB_CELLS = 1 << 20
"""Ids that a request names, times positions of its prompt that it wants them at."""
MAX_N = 128
MAX_PROMPTS = 4096
MAX_MESSAGES = 8192
MAX_SALT_LENGTH = 1024
MAX_INT32 = 2**31 - 1

INTEGERS = {
    "max_new_tokens": (0, MAX_INT32),
    "min_new_tokens": (0, MAX_INT32),
    "n": (1, MAX_N),
    "seed": (-(2**63), 2**63 - 1),
    "top_k": (-1, MAX_INT32),
}
NUMBERS = {
    "temperature": (0.0, 1e4),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.0, 2.0),
}
"""Bounds of sampling parameters, both ends included but for ``_OPEN_LOW``."""
_OPEN_LOW = frozenset({"top_p", "repetition_penalty"})

MAX_GRAMMAR_LENGTH = {
    "json_schema": 512 * 1024,
    "json_object": 0,
    "regex": 16 * 1024,
    "ebnf": 256 * 1024,
    "choice": 256 * 1024,
    "structural_tag": 512 * 1024,
}
"""Kinds of grammar, and the most characters that the source of each may have."""


class FinishReason(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when to stop; names and defaults are SGLang's.

    Attributes:
        max_new_tokens: at most this many tokens; 0 means prefill only; None fills the context.
        min_new_tokens: no stop rule acts before this many tokens.
        temperature: below ``GREEDY_TEMPERATURE`` means greedy.
        top_p: in (0, 1]. top_k: -1 (all) or at least 1. min_p: in [0, 1].
        frequency_penalty, presence_penalty: in [-2, 2], over generated tokens.
        repetition_penalty: in (0, 2], over prompt and generated tokens.
        n: samples of the one prompt.
        stop: strings that end the text. stop_regex: patterns that end it, in RE2's syntax.
        stop_token_ids: ids that end it.
        ignore_eos: the model's own end tokens do not stop.
        skip_special_tokens, spaces_between_special_tokens, no_stop_trim: how text is made of ids.
        logit_bias: pairs (token id, bias in [-100, 100]).
        seed: with it, sampling depends on (seed, position) alone; None draws one at admission.
    """

    max_new_tokens: int | None = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_regex: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @property
    def stops_on_text(self) -> bool:
        """Whether the text may end the output, so that it is needed token by token."""
        return bool(self.stop or self.stop_regex)

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature < GREEDY_TEMPERATURE or self.top_k == 1

    @property
    def penalised(self) -> bool:
        """Whether token counts change the logits."""
        return (
            self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
            or self.repetition_penalty != 1.0
        )

    @classmethod
    def checked(cls, values: dict[str, Any], *, vocab_size: int | None = None) -> "SamplingParams":
        """Build from untrusted values, such as a parsed JSON object.

        ``None`` means the field's default. ``vocab_size`` bounds token ids where it is given.

        Raises:
            InvalidRequest: an unknown name, a wrong type, or a value out of bounds.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidRequest(f"unknown sampling parameter {unknown[0]!r}", param=unknown[0])
        clean: dict[str, Any] = {}
        for name, value in values.items():
            if value is None and name not in _NULLABLE:
                continue
            clean[name] = _CHECKS[name](name, value)
        params = cls(**clean)
        if params.max_new_tokens is not None and params.min_new_tokens > params.max_new_tokens:
            raise InvalidRequest(
                f"min_new_tokens ({params.min_new_tokens}) is above max_new_tokens "
                f"({params.max_new_tokens})",
                param="min_new_tokens",
            )
        if vocab_size is not None:
            ids = [("stop_token_ids", i) for i in params.stop_token_ids]
            ids += [("logit_bias", i) for i, _ in params.logit_bias]
            for name, token in ids:
                check_token_ids([token], vocab_size, param=name)
        return params


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """What the output must look like; compiled by ``tupelo.grammar``.

    Attributes:
        kind: one of ``MAX_GRAMMAR_LENGTH``.
        text: its source: a JSON Schema, nothing (``json_object``), a regular expression, EBNF with
            a rule ``root``, a JSON list of strings (``choice``), or a structural tag as JSON.
        strict: of JSON Schemas: a keyword that cannot be enforced is refused (True) or left
            unenforced (False).
        param: the field of the client's request that it came from, which errors name; empty means
            ``kind``.
        after: ids after whose appearance the grammar begins, such as the end of a model's
            thinking; until then everything is allowed. Empty means from the start.
    """

    kind: str
    text: str = ""
    strict: bool = True
    param: str = ""
    after: tuple[int, ...] = ()

    def checked(self) -> "Grammar":
        """The grammar itself, if its kind is known and its source within its bound.

        Raises:
            InvalidRequest: otherwise, or if the source is no Unicode text.
        """
        name = self.param or self.kind
        limit = MAX_GRAMMAR_LENGTH.get(self.kind)
        if limit is None:
            known = ", ".join(MAX_GRAMMAR_LENGTH)
            raise InvalidRequest(f"grammar: unknown kind {_short(self.kind)}; allowed: {known}")
        if len(self.text) > limit:
            raise InvalidRequest(
                f"{name}: got {len(self.text)} characters; at most {limit}", param=name
            )
        if not self.text and limit:
            raise InvalidRequest(f"{name}: is empty", param=name)
        try:
            self.text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name}: holds an unpaired surrogate", param=name) from None
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One sequence to generate, as the engine receives it; ``n`` samples are n requests.

    Attributes:
        rid: the server's own id, unique among live requests.
        input_ids: the prompt.
        params: how to sample. ``params.n`` is 1 here: the caller has expanded it.
        salt: cache namespace; requests share cached prefixes only within one salt.
        adapter: adapter name, "" for the base model; part of the cache key.
        priority: larger is sooner, under the priority policy.
        logprobs: whether log-probabilities of generated tokens are returned.
        top_logprobs: how many alternatives a position. token_ids_logprob: ids whose
            log-probabilities are returned at each position.
        prompt_logprobs_from: first prompt position whose log-probability is returned; None for
            none.
        stream: whether tokens are reported as they come, or all together at the end.
        grammar: what the output must look like; None for anything.
        thinking: how long the model may think; None for as long as it wants.
        pooling: what is to be made of the prompt, where nothing is generated; None generates.
        arrived_s: when it was sent to the engine (``time.monotonic`` of this machine); 0.0 means
            when the engine took it.
        traced: whether the steps that served it are told with its end.
    """

    rid: str
    input_ids: tuple[int, ...]
    params: SamplingParams = SamplingParams()
    salt: str = ""
    adapter: str = ""
    priority: int = 0
    logprobs: bool = False
    top_logprobs: int = 0
    token_ids_logprob: tuple[int, ...] = ()
    prompt_logprobs_from: int | None = None
    stream: bool = True
    grammar: Grammar | None = None
    thinking: ThinkingBudget | None = None
    pooling: PoolingParams | None = None
    arrived_s: float = 0.0
    traced: bool = False

    def checked(self, *, vocab_size: int, context_length: int) -> "Request":
        """Return the request with ``max_new_tokens`` resolved against the context.

        A prompt must leave room for what is asked: prompt + max_new_tokens <= context_length,
        and a prompt that fills the context can only be prefilled.

        Raises:
            InvalidRequest: ids outside the vocabulary, an empty prompt, numbers out of bounds.
            ContextLengthExceeded: prompt and output do not fit.
        """
        if not self.input_ids:
            raise InvalidRequest(
                "the prompt is empty: at least one token is needed", param="prompt"
            )
        params = self._fitted(context_length)  # before looking at ids, of which there may be many
        check_token_ids(self.input_ids, vocab_size, param="input_ids")
        if len(self.salt) > MAX_SALT_LENGTH:
            raise InvalidRequest(
                f"cache_salt has {len(self.salt)} characters; at most {MAX_SALT_LENGTH}",
                param="cache_salt",
            )
        if self.grammar is not None:
            self.grammar.checked()
            check_token_ids(self.grammar.after, vocab_size, param="grammar")
        if self.thinking is not None:
            check_int("max_thinking_tokens", self.thinking.max_tokens, 0, MAX_INT32)
            check_token_ids(self.thinking.ids, vocab_size, param="max_thinking_tokens")
        check_int("top_logprobs", self.top_logprobs, 0, MAX_TOP_LOGPROBS)
        check_int("priority", self.priority, -MAX_INT32, MAX_INT32)
        start = self.prompt_logprobs_from
        if start is not None:
            check_int("logprob_start_len", start, 0, len(self.input_ids))
        if self.token_ids_logprob:
            self._check_named(vocab_size)
        return replace(self, params=params)

    def _check_named(self, vocab_size: int) -> None:
        """The ids whose log-probabilities are wanted: in the vocabulary, and not too many."""
        name, ids = "token_ids_logprob", self.token_ids_logprob
        check_count(name, len(ids), MAX_LOGPROB_IDS)
        check_token_ids(ids, vocab_size, param=name)
        start = self.prompt_logprobs_from
        positions = 0 if start is None else len(self.input_ids) - start
        if len(ids) * positions > MAX_LOGPROB_CELLS:
            raise InvalidRequest(
                f"{name}: {len(ids)} ids at {positions} positions of the prompt are more than "
                f"{MAX_LOGPROB_CELLS} values; name fewer, or set logprob_start_len",
                param=name,
            )

    def _fitted(self, context_length: int) -> SamplingParams:
        """The parameters with ``max_new_tokens`` resolved."""
        room = context_length - len(self.input_ids)
        wanted = self.params.max_new_tokens
        if room < 0 or (wanted is not None and wanted > room) or (wanted is None and room == 0):
            asked = "" if wanted is None else f" + {wanted} new tokens"
            raise ContextLengthExceeded(
                f"this model's maximum context length is {context_length} tokens, but the request "
                f"needs {len(self.input_ids)} prompt tokens{asked}; shorten the prompt or ask for "
                "less",
                param="prompt",
            )
        least = self.params.min_new_tokens
        if wanted is None and least > room:
            raise ContextLengthExceeded(
                f"min_new_tokens: got {least}, but a prompt of {len(self.input_ids)} tokens leaves "
                f"room for {room}",
                param="min_new_tokens",
            )
        return self.params if wanted is not None else replace(self.params, max_new_tokens=room)


def check_token_ids(ids: Sequence[int], vocab_size: int, *, param: str) -> None:
    """Refuse ids that are no integers or lie outside ``[0, vocab_size)``.

    Raises:
        InvalidRequest: names ``param`` and the first bad value.
    """
    if (
        set(map(type, ids)) <= {int}
        and 0 <= min(ids, default=0) <= max(ids, default=0) < vocab_size
    ):
        return
    bad = next(t for t in ids if type(t) is not int or not 0 <= t < vocab_size)
    raise InvalidRequest(
        f"{param}: {_short(bad)} is no token id; ids are 0 to {vocab_size - 1}", param=param
    )


def check_int(name: str, value: object, low: int, high: int) -> int:
    """An integer (no bool, no float) in ``[low, high]``.

    Raises:
        InvalidRequest: otherwise, naming ``name``.
    """
    if type(value) is not int or not low <= value <= high:
        raise InvalidRequest(
            f"{name}: got {_short(value)}; must be an integer from {low} to {high}", param=name
        )
    return value


def check_count(name: str, number: int, limit: int) -> None:
    """Refuse more than ``limit`` items of something.

    Raises:
        InvalidRequest: naming ``name``.
    """
    if number > limit:
        raise InvalidRequest(f"{name}: got {number} items; at most {limit}", param=name)


def check_float(
    name: str, value: object, low: float, high: float, *, open_low: bool = False
) -> float:
    """A finite number in ``[low, high]``, or in ``(low, high]`` with ``open_low``.

    Raises:
        InvalidRequest: otherwise, naming ``name``.
    """
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer that no float holds
            number = float(value)
    if not (math.isfinite(number) and low <= number <= high and not (open_low and number == low)):
        bracket = "(" if open_low else "["
        raise InvalidRequest(
            f"{name}: got {_short(value)}; must be a number in {bracket}{low:g}, {high:g}]",
            param=name,
        )
    return number


def check_bool(name: str, value: object) -> bool:
    """A boolean.

    Raises:
        InvalidRequest: otherwise, naming ``name``.
    """
    if type(value) is not bool:
        raise InvalidRequest(f"{name}: got {_short(value)}; must be true or false", param=name)
    return value


def check_stop(name: str, value: object, max_length: int = MAX_STOP_LENGTH) -> tuple[str, ...]:
    """Stop strings: one string, or a list of at most ``MAX_STOP_STRINGS``; empty ones are dropped.

    Raises:
        InvalidRequest: a wrong type, too many, or one that is too long.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(s, str) for s in items):
        raise InvalidRequest(f"{name}: must be a string or a list of strings", param=name)
    if len(items) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"{name}: got {len(items)} strings; at most {MAX_STOP_STRINGS}", param=name
        )
    for text in items:
        if len(text) > max_length:
            raise InvalidRequest(
                f"{name}: a string of {len(text)} characters; at most {max_length}", param=name
            )
    return tuple(s for s in items if s)


def _check_top_k(name: str, value: object) -> int:
    number = check_int(name, value, *INTEGERS["top_k"])
    if number == 0:
        raise InvalidRequest(f"{name}: got 0; must be -1 (all tokens) or at least 1", param=name)
    return number


def _check_ids(name: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list | tuple | set | frozenset) or len(value) > MAX_STOP_TOKENS:
        raise InvalidRequest(
            f"{name}: must be a list of at most {MAX_STOP_TOKENS} token ids", param=name
        )
    return tuple(check_int(name, v, 0, MAX_INT32) for v in value)


def _check_bias(name: str, value: object) -> tuple[tuple[int, float], ...]:
    items = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(items, list | tuple) or len(items) > MAX_LOGIT_BIAS:
        raise InvalidRequest(
            f"{name}: must be an object of at most {MAX_LOGIT_BIAS} token ids", param=name
        )
    pairs = []
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise InvalidRequest(f"{name}: must map token ids to numbers", param=name)
        key, bias = item
        if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 11:
            key = int(key)
        pairs.append((check_int(name, key, 0, MAX_INT32), check_float(name, bias, -100.0, 100.0)))
    return tuple(pairs)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_NULLABLE = frozenset({"max_new_tokens", "seed"})

_CHECKS: dict[str, Any] = {
    **{n: lambda k, v, b=b: v if v is None else check_int(k, v, *b) for n, b in INTEGERS.items()},
    **{
        n: lambda k, v, b=b: check_float(k, v, *b, open_low=k in _OPEN_LOW)
        for n, b in NUMBERS.items()
    },
    "top_k": _check_top_k,
    "stop": check_stop,
    "stop_regex": lambda k, v: check_stop(k, v, MAX_STOP_REGEX_LENGTH),
    "stop_token_ids": _check_ids,
    "ignore_eos": check_bool,
    "skip_special_tokens": check_bool,
    "spaces_between_special_tokens": check_bool,
    "no_stop_trim": check_bool,
    "logit_bias": _check_bias,
}
