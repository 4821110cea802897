"""The two ends of a model: token embedding, and the head that turns hidden states into logits."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tupelo.layers.linear import Linear
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter, Source, whole
from tupelo.ops import OpCall, OpTable


class Embedding:
    """Rows of the embedding table, scaled. Every rank holds the whole table.

    A table split by rows would save memory for one more all-reduce a step; the head, which reads
    all of its rows every step, is the one that is split.
    """

    def __init__(self, name: str, vocab_size: int, hidden_size: int, scale: float = 1.0) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self._scale = scale
        self._table = whole(f"{name}.weight", (vocab_size, hidden_size))

    def parameters(self) -> Iterator[Parameter]:
        """The table."""
        yield self._table

    @property
    def table(self) -> Parameter:
        """(vocab_size, hidden_size); a tied head reads it too, so it is never released."""
        return self._table

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose the kernel."""
        call = OpCall(op="embedding", dtype=dtype, shape=(self.vocab_size, self.hidden_size))
        self._fn = table.bind(call)
        self._rows = self._table.data

    def forward(self, ids: Tensor) -> Tensor:
        """(num_tokens, hidden_size) for ids (num_tokens,)."""
        rows: Tensor = self._fn(ids, self._rows, self._scale)
        return rows


class Head:
    """Logits, optionally soft-capped: ``cap * tanh(logits / cap)``. Split by rows over ranks.

    Args:
        tied: the embedding whose table is the weight, or None for a weight of its own. On one rank
            the tensor is shared; on several, each holds its rows a second time.
        scale: factor on the logits. soft_cap: None for none.
    """

    def __init__(
        self,
        name: str,
        embedding: Embedding,
        parallel: Parallel,
        *,
        tied: bool,
        scale: float = 1.0,
        soft_cap: float | None = None,
    ) -> None:
        self._vocab_size = embedding.vocab_size
        self._scale = scale
        self._soft_cap = soft_cap
        self._parallel = parallel
        self.shares_table = tied and parallel.world_size == 1
        if self.shares_table:
            weight = embedding.table
        else:
            source = embedding.table.sources[0].name if tied else f"{name}.weight"
            weight = _vocab_rows(source, embedding.vocab_size, embedding.hidden_size, parallel)
        self._weights = Linear(weight)

    def parameters(self) -> Iterator[Parameter]:
        """The weight, unless it is the embedding's."""
        if not self.shares_table:
            yield from self._weights.parameters()

    def call(self, dtype: str) -> OpCall:
        """What its kernel is chosen by."""
        return OpCall(op="linear", dtype=dtype, shape=self._weights.shape)

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose the kernel, pack, and drop the plain weight where nothing needs it."""
        self._linear = table.bind(self.call(dtype), weights={"weight": self._weights.weight()})
        if not self.shares_table:
            self._weights.release()

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, vocab_size) for hidden states (n, hidden_size)."""
        logits: Tensor = self._linear(hidden)
        if self._parallel.world_size > 1:
            logits = self._parallel.collectives.all_gather(logits, dim=1)[:, : self._vocab_size]
        if self._scale != 1.0:
            logits = logits * self._scale
        if self._soft_cap is not None:
            logits = torch.tanh(logits / self._soft_cap) * self._soft_cap
        return logits


def _vocab_rows(name: str, vocab_size: int, hidden_size: int, parallel: Parallel) -> Parameter:
    """Equal shares of the vocabulary, the last ones filled up with rows of zeros."""
    rows = -(-vocab_size // parallel.world_size)
    start = min(rows * parallel.rank, vocab_size)
    stop = min(start + rows, vocab_size)
    source = Source(
        name=name,
        shape=(vocab_size, hidden_size),
        take=(slice(start, stop), slice(0, hidden_size)),
        place=(slice(0, stop - start), slice(0, hidden_size)),
    )
    return Parameter(shape=(rows, hidden_size), sources=(source,))
