"""Parts with one bug each in what encoders and embeddings need."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import EagerRunner, Plan, ReferenceAttention, StepInputs
from tupelo.specs import AttentionSpec


class RowsMixed(ReferenceAttention):
    """Without a cache, a token sees those of other rows too."""

    def forward_ragged(
        self, q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, inputs: StepInputs, plan: Plan
    ) -> Tensor:
        count = inputs.host.num_tokens
        one = replace(
            inputs,
            host=replace(inputs.host, cu_seqlens_q=np.array([0, count], np.int32)),
            cu_seqlens_q=torch.tensor([0, count, count, count, count, count, count, count]),
            token_rows=torch.zeros_like(inputs.token_rows),
        )
        return super().forward_ragged(q, k, v, kind, one, plan)


class WindowOneSided(ReferenceAttention):
    """Without a cache, a window looks back only."""

    def forward_ragged(
        self, q: Tensor, k: Tensor, v: Tensor, kind: AttentionSpec, inputs: StepInputs, plan: Plan
    ) -> Tensor:
        if kind.window is None:
            return super().forward_ragged(q, k, v, kind, inputs, plan)
        at = torch.arange(len(q))
        distance = at.unsqueeze(1) - at
        same = inputs.token_rows.unsqueeze(1) == inputs.token_rows
        visible = same & (distance >= 0) & (distance < kind.window)
        groups = kind.num_heads // kind.num_kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        scores = torch.einsum("thd,lhd->htl", q, k) * kind.scale
        if kind.soft_cap is not None:
            scores = kind.soft_cap * torch.tanh(scores / kind.soft_cap)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        return torch.einsum("htl,lhd->thd", weights, v)


class FirstForMean(EagerRunner):
    """Pools the first token of an output instead of the mean of all."""

    def sample(self, forward: Any, batch: Any, mask: Any = None) -> Any:
        groups = []
        for group in batch.pooled:
            first = np.cumsum(group.lengths) - group.lengths
            groups.append(replace(group, tokens=group.tokens[first], lengths=group.lengths * 0 + 1))
        return super().sample(forward, replace(batch, pooled=tuple(groups)), mask)


class OneHead(EagerRunner):
    """Every group goes through the usual head."""

    def sample(self, forward: Any, batch: Any, mask: Any = None) -> Any:
        groups = tuple(replace(group, head="") for group in batch.pooled)
        return super().sample(forward, replace(batch, pooled=groups), mask)


class SegmentsDropped(EagerRunner):
    """Takes every token for one of the first segment."""

    def forward(self, batch: Any) -> Any:
        return super().forward(replace(batch, token_types=batch.token_types[:0]))
