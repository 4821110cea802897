"""Attention in two parts, for steps that are captured in pieces: what depends on the tokens alone,
and on decode rows, is captured; the prompts' part runs in between.

::

    ... qkv product, rotation, K/V stored, decode rows | prompts | output product ...
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from tupelo.backend.attention import HeadSplit, Plan
from tupelo.backend.kv_pool import KVPool


class Begun(NamedTuple):
    """One layer's attention after its first part, with T tokens.

    Attributes:
        q: (T, num_heads, head_dim), rotated. k, v: (T, num_kv_heads, head_dim); they are stored.
        out: as q; of the decode rows, the first tokens, what the first part attends is done.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor


@runtime_checkable
class CutAttention(Protocol):
    """What an ``AttentionBackend`` has besides where it can attend in two parts."""

    def begin_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Begun | None:
        """The first part, as ``forward_qkv``; None, with nothing submitted, where a spec has none.

        Args:
            plan: of as many decode rows as a step of these tokens can have, absent ones of length
                0; its ``slot_mapping`` has an element for each token, -1 for padding.
        """
        ...

    def finish_qkv(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: Plan) -> None:
        """Attend the rest of the step's rows, into ``begun.out``; tokens past its own are
        anything.

        Args:
            plan: of the step itself.
        """
        ...
