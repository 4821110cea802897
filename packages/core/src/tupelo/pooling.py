"""Numbers instead of text: what is made of a model's hidden states, and what is asked of it.

Both wings, the engine and the server share these words. Imports neither torch nor anything of
Tupelo but ``errors``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from tupelo.errors import InvalidRequest

Floats = npt.NDArray[np.float32]

SPARSE, COLBERT = "sparse", "colbert"
"""Further heads: a weight for each token, and a vector for each."""


class PoolingTask(StrEnum):
    """What a model makes of a text.

    ``EMBED``: a vector. ``CLASSIFY``: a number for each class, as its head gives it. ``RANK``: one
    number for a pair of texts, larger is better.
    """

    EMBED = "embed"
    CLASSIFY = "classify"
    RANK = "rank"


class PoolingKind(StrEnum):
    """Which hidden states a head sees: the first token's, the last one's, the mean of all, or every
    token's, each for itself."""

    CLS = "cls"
    LAST = "last"
    MEAN = "mean"
    TOKENS = "tokens"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingParams:
    """What one request asks of a model that pools.

    Attributes:
        head: name of the model's head; "" is its usual one.
        dimensions: elements to keep of a vector, its first ones; 0 for all.
        normalize: whether vectors are divided by their length, after they were cut.
        second: of a pair of texts, the position where the second one begins; 0 for a single text.
    """

    head: str = ""
    dimensions: int = 0
    normalize: bool = False
    second: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingInfo:
    """What a pooling model is, for whoever asks it.

    Attributes:
        tasks: what it can do.
        heads: its heads, each with the width of what it makes.
        refused: heads that it would have, with the reason why it has not.
        normalize: whether its authors normalise vectors.
        dimensions: widths that its vectors may be cut to; empty means any.
        labels: names of the classes.
        activation: what turns the numbers of classes into scores, a name of ``ACTIVATIONS``.
        max_length: tokens of the longest input that its authors meant it for.
        per_token: the usual head makes a row for each token.
        template: how a query and a document become one prompt, a name of ``tupelo.text.rerank``; ""
            for pairs that the tokenizer frames.
    """

    tasks: tuple[PoolingTask, ...]
    heads: dict[str, int]
    refused: dict[str, str] = field(default_factory=dict)
    normalize: bool = False
    dimensions: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    activation: str = "identity"
    max_length: int = 0
    per_token: bool = False
    template: str = ""

    def params(
        self, *, head: str = "", dimensions: int = 0, normalize: bool | None = None
    ) -> PoolingParams:
        """What a request asks for that leaves the rest to the model's authors."""
        own = head == COLBERT or (self.normalize and head != SPARSE)
        return PoolingParams(
            head=head, dimensions=dimensions, normalize=own if normalize is None else normalize
        )

    def check(self, params: PoolingParams, num_tokens: int) -> None:
        """Refuse what this model cannot do.

        Raises:
            InvalidRequest: names the field.
        """
        if params.head not in self.heads:
            reason = self.refused.get(params.head, "this model has no such output")
            raise InvalidRequest(f"output {params.head!r}: {reason}", param="output")
        if params.second and not 0 < params.second < num_tokens:
            raise InvalidRequest("the second text of a pair is empty", param="input")
        wanted = params.dimensions
        if not wanted:
            return
        if PoolingTask.EMBED not in self.tasks:
            raise InvalidRequest("dimensions: this model makes no embeddings", param="dimensions")
        allowed, size = self.dimensions, self.heads[params.head]
        if wanted < 0 or wanted > size or (allowed and wanted not in allowed):
            these = f"one of {', '.join(map(str, allowed))}" if allowed else f"from 1 to {size}"
            raise InvalidRequest(
                f"dimensions: got {wanted}; must be {these} for this model", param="dimensions"
            )


def finish(vectors: Floats, params: PoolingParams) -> Floats:
    """Vectors (n, size) as the request wants them: cut, then normalised."""
    kept = vectors[:, : params.dimensions] if params.dimensions else vectors
    if params.normalize:
        lengths = np.linalg.norm(kept.astype(np.float64), axis=1, keepdims=True)
        kept = kept / np.maximum(lengths, 1e-12)
    return np.ascontiguousarray(kept, np.float32)


def described(
    rows: Floats,
    head: str,
    ids: Sequence[int],
    special_ids: Collection[int],
    *,
    per_token: bool,
    only: int | None = None,
) -> dict[str, Any]:
    """What a reply says of one input's vectors.

    Args:
        rows: (n, size). head: that made them.
        ids: of the input. special_ids: that stand for no text.
        per_token: the usual head makes a row for each token.
        only: of these, rows of tokens with this id; None for all.

    Returns:
        ``embedding``: the vector, or a list of one for each token. Of the head ``sparse``
            ``lexical_weights``: the largest weight of each id that has one; of ``colbert``
            ``colbert_vecs``: a vector for each token but the first. Source: FlagEmbedding's BGE-M3.
    """
    if head == SPARSE:
        weights: dict[str, float] = {}
        for token, weight in zip(ids, rows[:, 0].tolist(), strict=True):
            if weight > 0 and token not in special_ids:
                weights[str(token)] = max(weight, weights.get(str(token), 0.0))
        return {"lexical_weights": weights}
    if head == COLBERT:
        return {"colbert_vecs": rows[1:].tolist()}
    if per_token and only is not None:
        rows = rows[np.asarray(ids) == only]
    return {"embedding": rows.tolist() if per_token else rows[0].tolist()}


def scores(numbers: Floats, activation: str) -> Floats:
    """What a head's ``numbers`` (…, num_labels) say: see ``ACTIVATIONS``."""
    wide = numbers.astype(np.float64)
    if activation == "sigmoid":
        wide = 1.0 / (1.0 + np.exp(-wide))
    elif activation == "softmax":
        powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
        wide = powers / powers.sum(axis=-1, keepdims=True)
    else:
        assert activation == "identity", activation
    return wide.astype(np.float32)


ACTIVATIONS = ("identity", "sigmoid", "softmax")
"""What turns a head's numbers into scores: nothing, each one's sigmoid, or softmax over classes."""
