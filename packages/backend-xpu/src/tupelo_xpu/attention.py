"""Attention on Intel GPUs: vllm-xpu-kernels', core's in Triton, or torch's reference; where a user
names it, intel-extension-for-pytorch's."""

from typing import Any, ClassVar

import torch

from tupelo.triton.chosen import ChosenAttention, Maker, Refusal
from tupelo_xpu.attention_tuning import attention_tuning
from tupelo_xpu.card import Card
from tupelo_xpu.options import Options
from tupelo_xpu.vendor import has_triton
from tupelo_xpu.vllm_calls import LibraryError


class XpuAttention(ChosenAttention):
    """``ChosenAttention`` on a card; the other arguments as for every attention."""

    setting = "TUPELO_XPU_ATTENTION"
    tries = True
    lacks: ClassVar = {
        "vllm": frozenset({"soft caps", "chunked windows", "compressed K/V"}),
        "ipex": frozenset({"soft caps", "sinks", "chunked windows", "compressed K/V"}),
        "triton": frozenset({"sinks", "chunked windows", "compressed K/V"}),
    }

    def __init__(self, options: Options, card: Card, *args: Any, **kwargs: Any) -> None:
        super().__init__(options.attention, attention_tuning(card), *args, **kwargs)
        self.portable = has_triton()
        self._options = options

    def vendors(self) -> dict[str, Maker]:
        makers: dict[str, Maker] = {}
        if self._options.vllm or self._wanted == "vllm":
            makers["vllm"] = self._make_vllm
        if self._options.ipex or self._wanted == "ipex":
            makers["ipex"] = self._make_ipex
        return makers

    def _make_vllm(self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Refusal | None:
        from tupelo_xpu.vllm_attention import VllmAttention

        return self._make("vllm", VllmAttention, spec, dtype, kv_dtype)

    def _make_ipex(self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Refusal | None:
        from tupelo_xpu.ipex import IpexAttention

        return self._make("ipex", IpexAttention, spec, dtype, kv_dtype)

    def _make(
        self, name: str, make: Any, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> Refusal | None:
        from tupelo_xpu.vllm_attention import why_not

        reason = why_not(self._page_size, dtype, kv_dtype)
        if reason:
            return reason
        try:
            self.add(name, make)
        except LibraryError as error:
            return f"{error}"
        return None
