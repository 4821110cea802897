"""Attention in two parts with a bug in the first."""

from dataclasses import replace

import torch
from torch import Tensor

from tupelo.backend import HeadSplit, KVPool, Plan, ReferenceAttention
from tupelo.backend.graphs.cut import Begun


class CutBeforeItStores(ReferenceAttention):
    """Attends in two parts, the first of which stores K/V of all tokens but the last real one."""

    def begin_qkv(
        self, qkv: Tensor, positions: Tensor, split: HeadSplit, spec: int, layer: int, kv: KVPool,
        plan: Plan,
    ) -> Begun:  # fmt: skip
        q, k, v = split(qkv, positions)
        mapping = plan.store[self._specs[spec].group]
        last = (mapping >= 0).nonzero().max()
        stored = replace(
            plan, store=(torch.where(torch.arange(len(mapping)) == last, -1, mapping),)
        )
        self.store(k, v, self._specs[spec], layer, kv, stored)
        return Begun(q, k, v, torch.empty_like(q))

    def finish_qkv(self, begun: Begun, spec: int, layer: int, kv: KVPool, plan: Plan) -> None:
        kind = self._specs[spec]
        k_pool, v_pool = (t.flatten(0, 1) for t in kv.buffers(layer))
        gather = plan.gather[kind.group]
        q = begun.q[: len(gather)]
        begun.out[: len(q)] = self._attend(q, k_pool, v_pool, gather, plan.distance, kind, None)
