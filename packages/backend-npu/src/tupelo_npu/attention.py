"""Attention on Ascend NPUs: CANN's fused kernels, all prompts in a call or a call for each, core's
in Triton, or torch's reference; each is tried before it serves."""

from functools import partial
from typing import Any, ClassVar

import torch

from tupelo.backend import KVPool
from tupelo.triton.chosen import ChosenAttention, Maker, Refusal
from tupelo_npu import calls
from tupelo_npu.attention_tuning import attention_tuning
from tupelo_npu.fused_attention import MOST_ELEMENTS, FusedAttention, why_not
from tupelo_npu.graphs import HostLengths
from tupelo_npu.options import Options

FUSED = ("fused", "rows")
LACKS = frozenset({"sinks", "soft caps", "chunked windows", "compressed K/V"})


class NpuAttention(ChosenAttention):
    """``ChosenAttention`` over CANN; the other arguments as for every attention.

    Attributes:
        lengths: that the graphs of the same engine read.
    """

    setting = "TUPELO_NPU_ATTENTION"
    tries = True
    takes_heads: ClassVar = frozenset({"reference", *FUSED})
    lacks: ClassVar = {
        **dict.fromkeys(FUSED, LACKS),
        "triton": frozenset({"sinks", "chunked windows", "compressed K/V"}),
    }

    def __init__(self, options: Options, *args: Any, **kwargs: Any) -> None:
        super().__init__(options.attention, attention_tuning(), *args, **kwargs)
        self._options = options
        self.lengths = HostLengths()

    def vendors(self) -> dict[str, Maker]:
        named = self._wanted in FUSED
        if not self._options.vendor and not named:
            return {}
        return {name: partial(self._make_fused, name) for name in FUSED}

    def _make_fused(
        self, name: str, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> Refusal | None:
        missing = calls.lacking("npu_fused_infer_attention_score")
        if missing:
            return f"this torch-npu has no {missing}"
        reason = why_not(self._specs[spec], self._page_size, dtype, kv_dtype)
        if reason:
            return reason
        by_rows = name == "rows"
        self.add(name, partial(FusedAttention, lengths=self.lengths, by_rows=by_rows))
        return None

    def _make_triton(self, *args: Any) -> Refusal | None:
        if not self._options.triton:
            return "TUPELO_NPU_TRITON=0"
        try:
            return super()._make_triton(*args)
        except Exception as error:  # a Triton of a vendor's raises what it lacks in its own ways
            return f"{type(error).__name__}: {error}"

    def _warm(
        self, name: str, spec: int, dtype: torch.dtype, layer: int, kv: KVPool
    ) -> Refusal | None:
        if name in FUSED and kv.buffers(layer)[0].numel() > MOST_ELEMENTS:
            return self._passed_over(name, f"a layer's K has more than {MOST_ELEMENTS} elements")
        return super()._warm(name, spec, dtype, layer, kv)
