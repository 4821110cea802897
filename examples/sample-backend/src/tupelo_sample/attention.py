"""Attention over pages, a row at a time, with torch's scaled_dot_product_attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.backend import AttentionBackend, KVPool, Runtime, StepInputs
from tupelo.specs import AttentionSpec


@dataclass(slots=True)
class RowPlan:
    """A step's metadata, made once for all layers.

    Attributes:
        store: a page group, (num_tokens,) positions in the pool; padding goes to the last one.
        rows: of each row: its tokens, and how many tokens it can see at its end.
        pages: a page group, of each row, the ids of its pages.
    """

    store: list[Tensor]
    rows: list[tuple[slice, int]]
    pages: list[list[Tensor]]


class RowAttention(AttentionBackend):
    """See ``AttentionBackend`` for the rules; the arguments are what core builds it with."""

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        page_size: int,
        max_pages: int,
        runtime: Runtime,
        in_place: bool = True,
    ) -> None:
        self._specs = tuple(specs)
        self._page_size = page_size

    def plan(self, inputs: StepInputs, out: Any | None = None) -> RowPlan:
        # Host lengths are exact, because the capabilities say plan_needs_host_lens.
        bounds = inputs.host.cu_seqlens_q.tolist()
        lengths = inputs.host.seq_lens.tolist()
        slots = inputs.host.slots.tolist()
        return RowPlan(
            store=list(inputs.slot_mapping),
            rows=[
                (slice(start, stop), length)
                for start, stop, length in zip(bounds, bounds[1:], lengths, strict=False)
            ],
            pages=[
                [
                    # Pages before a window may be gone (-1); nothing visible lies there.
                    table[slot, : -(-length // self._page_size)].clamp(min=0)
                    for slot, length in zip(slots, lengths, strict=True)
                ]
                for table in inputs.page_tables
            ],
        )

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: RowPlan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        kind = self._specs[spec]
        k_cache, v_cache = kv.buffers(layer)
        # All rows are stored before any row reads: rows of one step may share pages.
        store = plan.store[kind.group]
        scratch = k_cache.shape[0] * self._page_size - 1
        store = torch.where(store < 0, scratch, store)
        for cache, new in ((k_cache, k), (v_cache, v)):
            cache.flatten(0, 1).index_copy_(0, store, new.to(cache.dtype))
        out = torch.zeros_like(q)
        for (tokens, length), pages in zip(plan.rows, plan.pages[kind.group], strict=True):
            keys, values = (
                cache[pages].flatten(0, 1)[:length].to(q.dtype).transpose(0, 1)
                for cache in (k_cache, v_cache)
            )
            out[tokens] = F.scaled_dot_product_attention(
                q[tokens].transpose(0, 1).unsqueeze(0),
                keys.unsqueeze(0),
                values.unsqueeze(0),
                attn_mask=_visible(tokens, length, kind.window, q.device),
                scale=kind.scale,
                enable_gqa=True,
            )[0].transpose(0, 1)
        return out


def _visible(tokens: slice, length: int, window: int | None, device: torch.device) -> Tensor:
    """(new tokens, length): whether a query sees a key, ``query - window < key <= query``."""
    query = torch.arange(length - (tokens.stop - tokens.start), length, device=device)
    distance = query.unsqueeze(1) - torch.arange(length, device=device)
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
