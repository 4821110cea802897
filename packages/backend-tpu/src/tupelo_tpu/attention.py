"""Attention over XLA's K/V pool: Pallas where its kernel serves the layers, else XLA's own ops.

Both store the K/V of all rows first, and give the pool a successor instead of writing into it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tupelo.backend import KVPool, Plan, ReferenceAttention, Runtime
from tupelo.specs import AttentionSpec
from tupelo_tpu.options import Options


class XlaAttention(ReferenceAttention):
    """The reference over pages whose heads lie side by side.

    It makes no choice on a value, so XLA compiles it as it is. Every token reads the whole width of
    its row's page table: right everywhere, and slow where tables are long.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = False,
    ) -> None:
        assert not in_place, "functional_kv is declared"
        super().__init__(specs, page_size, max_pages, runtime, in_place)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        kind = self._specs[spec]
        k_pool, v_pool = store(k, v, plan.store[kind.group], kind, layer, kv)
        k_heads = k_pool.view(-1, kind.num_kv_heads, kind.head_dim)
        v_heads = v_pool.reshape(len(k_heads), kind.num_kv_heads, -1)
        gather = plan.gather[kind.group]
        parts = [
            self._attend(q[s], k_heads, v_heads, gather[s], plan.distance[s], kind, sinks)
            for s in _slices(len(q), self.slice_tokens)
        ]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def make_attention(options: Options, kind: str, *args: Any) -> XlaAttention:
    """The attention of a backend; the rest as for every attention."""
    return XlaAttention(*args)


def attention_note(options: Options, kind: str) -> str:
    """Which attention is used, for ``doctor``."""
    return "attention: XLA's own ops"


def store(
    k: Tensor, v: Tensor, mapping: Tensor, kind: AttentionSpec, layer: int, kv: KVPool
) -> tuple[Tensor, Tensor]:
    """Give the pool a successor that holds the K/V of new tokens.

    Args:
        mapping: (T,) where each token's go, -1 for padding.

    Returns:
        K and V of the layer, (pages, page_size, num_kv_heads * head_dim), V ``value_dim`` wide
        where it is a part of K.
    """
    old = kv.buffers(layer)
    latent = kind.value_dim is not None
    scratch = old[0].shape[0] * old[0].shape[1] - 1
    place = torch.where(mapping < 0, scratch, mapping)
    new = []
    for pool, tokens in zip(old[:1] if latent else old, (k, v), strict=False):
        rows = tokens.flatten(1).to(pool.dtype)
        new.append(pool.flatten(0, 1).index_copy(0, place, rows).view(pool.shape))
    kv.replace(layer, (new[0], new[-1]))
    return kv.buffers(layer)


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, total, size)]
