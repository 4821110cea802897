"""Attention with one bug each in how it reads a prefix that decode rows share."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import KVPool, Plan, ReferenceAttention, StepInputs


class PrefixOfNeighbour(ReferenceAttention):
    """The rows of a prefix group read the prefix of the first row after the group."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        plan = super().plan(inputs, out)
        groups = inputs.host.prefix_groups
        if groups is not None:
            spans = zip(pairwise(groups.row_starts.tolist()), groups.shared_tokens, strict=True)
            for (first, end), shared in spans:
                for gather in plan.gather:
                    gather[first:end, :shared] = gather[end % len(gather), :shared]
        return plan


class PrefixWeightForgotten(ReferenceAttention):
    """Rows of a prefix group take half from the prefix and half from their own tokens."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        self._groups = inputs.host.prefix_groups
        return super().plan(inputs, out)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, spec: int, layer: int, kv: KVPool, plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        out = super().forward(q, k, v, spec, layer, kv, plan, sinks)
        if self._groups is None or self._specs[spec].window is not None:
            return out
        starts, shared = self._groups.row_starts.tolist(), self._groups.shared_tokens
        before = torch.zeros(len(q), 1, dtype=torch.int64)
        before[: starts[-1], 0] = torch.from_numpy(np.repeat(shared, np.diff(starts)))
        in_prefix = torch.arange(plan.distance.shape[1]) < before
        halves = [
            super().forward(
                q, k, v, spec, layer, kv,
                replace(plan, distance=plan.distance.masked_fill(hidden, -1)), sinks,
            )
            for hidden in (in_prefix, ~in_prefix)
        ]  # fmt: skip
        end = starts[-1]
        return torch.cat(((halves[0][:end] + halves[1][:end]) / 2, out[end:]))
