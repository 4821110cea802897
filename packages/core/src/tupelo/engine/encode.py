"""Offline calls that end in numbers: what ``Engine.encode`` and ``Engine.rerank`` are made of."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from tupelo.engine.messages import EngineInfo, Output, Vectors
from tupelo.engine.reply import ReplyBuilder, request_error
from tupelo.engine.task import check_purpose
from tupelo.errors import InvalidRequest
from tupelo.pooling import PoolingInfo, PoolingParams, PoolingTask, described, scores
from tupelo.request import FinishReason, Request, SamplingParams
from tupelo.text.rerank import rank_prompt
from tupelo.text.tokenizer import Tokenizer

PREFILL_ONLY = SamplingParams(max_new_tokens=0, temperature=0.0)


class VectorReply:
    """The reply of one pooled request.

    Attributes:
        cut: never: nothing is left running.
    """

    cut = False

    def __init__(self, request: Request, info: PoolingInfo, special_ids: Collection[int]) -> None:
        self._request = request
        self._per_token = info.per_token
        self._special_ids = special_ids
        self._vectors: Vectors | None = None
        self._cached_tokens = 0

    def take(self, output: Output) -> bool:
        """Add an output; True once the reply is complete.

        Raises:
            RequestError: the request failed or was aborted.
        """
        finish = output.finish
        if finish is not None and finish.reason in (FinishReason.ERROR, FinishReason.ABORT):
            raise request_error(finish)
        self._vectors = output.vectors
        self._cached_tokens = output.cached_tokens
        return finish is not None

    def reply(self) -> dict[str, Any]:
        """What ``tupelo.pooling.described`` says, and ``meta_info``."""
        request = self._request
        assert self._vectors is not None
        assert request.pooling is not None
        rows, head, ids = self._vectors.array(), request.pooling.head, request.input_ids
        return {
            **described(rows, head, ids, self._special_ids, per_token=self._per_token),
            "meta_info": {
                "id": request.rid,
                "prompt_tokens": len(ids),
                "cached_tokens": self._cached_tokens,
            },
        }


Builder = ReplyBuilder | VectorReply
"""What turns the outputs of a request into its reply."""


class PoolingCalls(ABC):
    """Calls of an engine in this process that end in numbers.

    Attributes:
        info: what is served. tokenizer: of the model, where it has one.
    """

    info: EngineInfo
    tokenizer: Tokenizer | None
    _numbers: Iterator[int]

    def encode(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        input_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        dimensions: int = 0,
        normalize: bool | None = None,
        output: str = "",
        salt: str = "",
    ) -> Any:
        """Vectors of texts; of a classifier, the numbers of its classes.

        Args:
            prompt: text, or a list of texts; or give ``input_ids``.
            dimensions: elements to keep of each vector; 0 for all.
            normalize: divide vectors by their length; None as the model's authors do.
            output: name of a further head, ``sparse`` or ``colbert``; its reply has another key.
            salt: as of ``generate``.

        Returns:
            A reply ``{"embedding": [...], "meta_info": {...}}``, or a list of them.

        Raises:
            InvalidRequest: bad values, or a model that generates. RequestError: it failed.
        """
        prompts, single = self._prompts(prompt, input_ids)
        info = self.info.pooling or PoolingInfo(tasks=(), heads={})
        params = info.params(head=output, dimensions=dimensions, normalize=normalize)
        found = self._pool([(ids, params) for ids in prompts], salt=salt)
        return found[0] if single else found

    def rerank(
        self, query: str, documents: Sequence[str], *, instruct: str = "", max_tokens: int = 0
    ) -> list[float]:
        """How well each document fits the query, in their order; larger is better.

        Args:
            instruct: what documents are wanted, for models that are told.
            max_tokens: cut documents so that no prompt is longer; 0 means no cut.

        Raises:
            InvalidRequest: a model that ranks nothing, or texts that are too long.
        """
        info, jobs = self.info.pooling, []
        for document in documents:
            ids, second = pair_ids(
                self.tokenizer, info, query, document, instruct=instruct, max_tokens=max_tokens
            )
            jobs.append((ids, PoolingParams(second=second)))
        assert info is not None
        replies = self._pool(jobs)
        return [rank_score(reply["embedding"], info) for reply in replies]

    def _pool(
        self, jobs: Sequence[tuple[Sequence[int], PoolingParams]], *, salt: str = ""
    ) -> list[dict[str, Any]]:
        """A reply for each prompt, in their order."""
        info = self.info.pooling
        requests = [
            pooled_request(f"local-{next(self._numbers)}", ids, params, salt)
            for ids, params in jobs
        ]
        for request in requests:
            check_purpose(request, info)
        sizes = {"vocab_size": self.info.vocab_size, "context_length": self.info.context_length}
        checked = [request.checked(**sizes) for request in requests]
        assert info is not None
        special = self.tokenizer.special_ids if self.tokenizer is not None else frozenset()
        return self._collect(checked, [VectorReply(r, info, special) for r in checked])

    @abstractmethod
    def _prompts(self, prompt: Any, input_ids: Any) -> tuple[list[tuple[int, ...]], bool]:
        """Ids of each prompt, and whether a single one was given."""

    @abstractmethod
    def _collect(self, requests: Sequence[Request], builders: Sequence[Builder]) -> list[Any]:
        """Run requests to their end; the reply of each, in their order."""


def pooled_request(rid: str, ids: Sequence[int], params: PoolingParams, salt: str = "") -> Request:
    """A request that prefills ``ids`` and pools them."""
    return Request(
        rid=rid,
        input_ids=tuple(ids),
        params=PREFILL_ONLY,
        salt=salt,
        stream=False,
        pooling=params,
    )


def pair_ids(
    tokenizer: Tokenizer | None,
    info: PoolingInfo | None,
    query: str,
    document: str,
    *,
    instruct: str = "",
    max_tokens: int = 0,
) -> tuple[list[int], int]:
    """A query and a document as the model wants them; and where the second segment begins.

    Raises:
        InvalidRequest: the model ranks nothing, has no tokenizer, or takes no instruction.
    """
    if info is None or PoolingTask.RANK not in info.tasks:
        raise InvalidRequest("this model ranks nothing; serve a reranker for that", param="model")
    if tokenizer is None:
        raise InvalidRequest("the model has no tokenizer", param="query")
    if info.template:
        found = rank_prompt(
            tokenizer, info.template, query, document, instruct=instruct, max_tokens=max_tokens
        )
        return found, 0
    if instruct:
        raise InvalidRequest("instruct: this model takes no instruction", param="instruct")
    return tokenizer.frame(query, document, max_tokens=max_tokens)


def rank_score(numbers: Sequence[float], info: PoolingInfo) -> float:
    """How well a document fits, larger is better: the score of the last class."""
    return float(scores(np.asarray(numbers, np.float32), info.activation)[-1])
