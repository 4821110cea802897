"""Attention on AMD GPUs: AITER's in Triton, core's in Triton, or torch's reference; where a user
asks for it, AITER's in HIP and Composable Kernel."""

from functools import partial
from typing import Any, ClassVar

import torch

from tupelo.triton.chosen import ChosenAttention, Maker, Refusal
from tupelo_rocm.aiter_calls import AiterError
from tupelo_rocm.arch import Arch
from tupelo_rocm.attention_tuning import attention_tuning, why_not
from tupelo_rocm.options import Options

AITER_ARCHS = ("gfx942", "gfx950")
"""Where AITER's Triton attention comes before core's, unasked: what AMD makes it for."""


class RocmAttention(ChosenAttention):
    """``ChosenAttention`` on an architecture with so many compute units; the other arguments as for
    every attention."""

    setting = "TUPELO_ROCM_ATTENTION"
    tries = True
    lacks: ClassVar = {
        "aiter": frozenset({"chunked windows", "compressed K/V"}),
        "ck": frozenset({"sinks", "chunked windows", "compressed K/V"}),
        "triton": frozenset({"sinks", "chunked windows", "compressed K/V"}),
    }

    def __init__(self, options: Options, arch: Arch, units: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(options.attention, attention_tuning(arch, units), *args, **kwargs)
        self._options = options
        self._arch = arch

    def vendors(self) -> dict[str, Maker]:
        makers: dict[str, Maker] = {}
        if (self._options.aiter and self._arch.name in AITER_ARCHS) or self._wanted == "aiter":
            makers["aiter"] = self._make_aiter
        if self._wanted == "ck":
            makers["ck"] = self._make_ck
        return makers

    def _make_triton(self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Refusal | None:
        reason = why_not(self._arch, self._specs[spec].head_dim, dtype)
        return reason or super()._make_triton(spec, dtype, kv_dtype)

    def _make_aiter(self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Refusal | None:
        try:
            from tupelo_rocm import aiter_attention

            reason = aiter_attention.why_not(self._specs[spec], self._page_size, dtype, kv_dtype)
            if not reason:
                self.add("aiter", aiter_attention.AiterAttention)
        except (AiterError, ImportError) as error:
            return f"{error}"
        return reason or None

    def _make_ck(self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype) -> Refusal | None:
        try:
            from tupelo_rocm import ck_attention

            reason = ck_attention.why_not(self._specs[spec], self._page_size, dtype, kv_dtype)
            if not reason:
                self.add("ck", partial(ck_attention.CkAttention, tuning=self._tuning))
        except (AiterError, ImportError) as error:
            return f"{error}"
        return reason or None
