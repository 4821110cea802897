"""What travels between the server's process and the engine's: msgspec structs, never pickle.

The one door for message decoding: bytes that are no valid message raise ``msgspec.DecodeError``
    (its
subclass ``ValidationError`` for wrong types), are counted by the receiver, and change nothing.
"""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tupelo.errors import InvalidRequest, RequestError, RequestFailed
from tupelo.pooling import PoolingInfo
from tupelo.request import FinishReason, Request


class Submit(msgspec.Struct, tag=True, frozen=True):
    """To the engine: serve these requests."""

    requests: list[Request]


class Abort(msgspec.Struct, tag=True, frozen=True):
    """To the engine: drop these requests, or every one."""

    rids: list[str] = []
    everything: bool = False


class Expire(msgspec.Struct, tag=True, frozen=True):
    """To the engine: end those of these requests that no step has served yet: they waited too
    long."""

    rids: list[str]


class Control(msgspec.Struct, tag=True, frozen=True):
    """To the engine: an operator's call, answered by a ``Reply`` of the same number.

    ``tupelo.engine.control`` has the actions and what each takes in ``args``.
    """

    number: int
    action: str
    args: dict[str, Any] = {}


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """To the engine: stop after the step in flight."""


class Finish(msgspec.Struct, frozen=True):
    """How a request ended.

    Attributes:
        reason: see ``FinishReason``.
        matched: the stop token id, where one ended it.
        message, status, code, param: of the error, where ``reason`` is abort or error.
    """

    reason: FinishReason
    matched: int | None = None
    message: str = ""
    status: int = 200
    code: str = ""
    param: str = ""


class Scores(msgspec.Struct, frozen=True):
    """Log-probabilities of some consecutive tokens.

    Attributes:
        logprobs: one a token; None where there is none (the first prompt token).
        top: for each token the most probable alternatives as (id, logprob), best first.
        wanted: for each token the log-probabilities of the ids that the request names.
    """

    logprobs: list[float | None]
    top: list[list[tuple[int, float]]] = []
    wanted: list[list[float]] = []


class StepMark(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive steps that served a request.

    Attributes:
        first: number of the first. count: how many.
        begin_s, end_s: of the first and of the last, in seconds since the request was sent.
        prompt_tokens: of the request that they computed. tokens: that they sampled for it.
        rows: of the fullest batch among them.
    """

    first: int
    count: int
    begin_s: float
    end_s: float
    prompt_tokens: int
    tokens: int
    rows: int


class Timing(msgspec.Struct, frozen=True):
    """Where a request's time went, in seconds.

    Attributes:
        queue_s: from being sent to its first step. prefill_s: from there to the first token.
        decode_s: from there to its end; 0.0 in the output that brings the first token.
        steps: with the end of a traced request, what served it; see ``engine/steps.py``.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    steps: list[StepMark] = []


class Vectors(msgspec.Struct, frozen=True):
    """What was pooled for one request: ``data`` is (rows, size) float32 in row-major order.

    One row, or one for each token of the input.
    """

    rows: int
    size: int
    data: bytes

    def array(self) -> npt.NDArray[np.float32]:
        """(rows, size), read-only."""
        return np.frombuffer(self.data, np.float32).reshape(self.rows, self.size)


class Output(msgspec.Struct, frozen=True):
    """From the engine: what is new of one request.

    Attributes:
        token_ids: generated since the last output; a stop token that ended the request included.
        finish: set in the last output. cached_tokens: prompt tokens that came from the cache.
        scores: of ``token_ids``, where asked for. prompt_scores: of the prompt from
            ``prompt_logprobs_from`` on, once, in the output that brings the first token or the end.
        retractions: times that it lost its pages and was computed again.
        timing: in the output that brings the first token, and in the last.
        vectors: in the only output of a request that is pooled.
    """

    rid: str
    token_ids: list[int]
    finish: Finish | None = None
    cached_tokens: int = 0
    scores: Scores | None = None
    prompt_scores: Scores | None = None
    retractions: int = 0
    timing: Timing | None = None
    vectors: Vectors | None = None


class Outputs(msgspec.Struct, tag=True, frozen=True):
    """From the engine: what a step produced."""

    items: list[Output]


class Progress(msgspec.Struct, tag=True, frozen=True):
    """From the engine while it starts: a phase has begun (``fraction`` 0) or gone on."""

    phase: str
    fraction: float = 0.0


class EngineInfo(msgspec.Struct, tag=True, frozen=True):
    """From the engine once it is ready: what is being served.

    Attributes:
        max_total_tokens: tokens that the K/V pool holds. kernels: the kernel table, a row a choice.
        memory: bytes, planned and measured. versions: of libraries that matter.
        phases_s: seconds of each start-up phase.
        pooling: of a model that makes vectors; None of one that generates.
    """

    model_path: str
    tokenizer_path: str
    architecture: str
    model_type: str
    backend: str
    dtype: str
    vocab_size: int
    context_length: int
    eos_token_ids: list[int]
    page_size: int
    num_pages: list[int]
    max_total_tokens: int
    max_running_requests: int
    kernels: list[dict[str, str]]
    memory: dict[str, int]
    versions: dict[str, str]
    phases_s: dict[str, float]
    generation_defaults: dict[str, float]
    pooling: PoolingInfo | None = None


class StartFailed(msgspec.Struct, tag=True, frozen=True):
    """From the engine: it could not start. ``kind`` is the class name of the ``TupeloError``."""

    kind: str
    message: str


class Heartbeat(msgspec.Struct, tag=True, frozen=True):
    """From the engine's heartbeat thread, every ``HEARTBEAT_S``.

    Attributes:
        step: number of the last step begun. step_age_s: seconds since it began; 0 when idle.
    """

    step: int
    step_age_s: float


class Reply(msgspec.Struct, tag=True, frozen=True):
    """From the engine: the answer to a ``Control``.

    Attributes:
        value: what the action returns; where it was refused (not ``ok``), the message.
        status, param: of a refusal, as ``RequestError`` has them.
    """

    number: int
    ok: bool
    value: Any = None
    status: int = 200
    param: str | None = None


HEARTBEAT_S = 0.5
ToEngine = Submit | Abort | Expire | Control | Shutdown
FromEngine = Outputs | Progress | EngineInfo | StartFailed | Heartbeat | Reply

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode


def refusal(reply: Reply) -> RequestError:
    """The error of a reply that is not ``ok``."""
    message = str(reply.value)
    if reply.status == InvalidRequest.status:
        return InvalidRequest(message, param=reply.param)
    error = RequestFailed(message, param=reply.param)
    error.status = reply.status
    return error
