"""Attention on NVIDIA GPUs: FlashInfer with Triton, Triton alone, or torch's reference."""

from typing import Any, ClassVar

import torch

from tupelo.triton.chosen import ChosenAttention, Maker, Refusal
from tupelo_cuda.attention_tuning import attention_tuning
from tupelo_cuda.options import Options


class CudaAttention(ChosenAttention):
    """``ChosenAttention`` that tries FlashInfer first; arguments as for every attention."""

    setting = "TUPELO_CUDA_ATTENTION"
    lacks: ClassVar = dict.fromkeys(
        ("flashinfer", "triton"), frozenset({"sinks", "chunked windows", "compressed K/V"})
    )

    def __init__(self, options: Options, *args: Any, **kwargs: Any) -> None:
        super().__init__(options.attention, attention_tuning(), *args, **kwargs)

    def vendors(self) -> dict[str, Maker]:
        return {"flashinfer": self._make_flashinfer}

    def _make_flashinfer(
        self, spec: int, dtype: torch.dtype, kv_dtype: torch.dtype
    ) -> Refusal | None:
        from tupelo_cuda.flashinfer_plan import why_not

        reason = why_not(self._specs[spec], dtype, kv_dtype)
        if reason is not None:
            return reason
        if "flashinfer" in self.built:
            return None
        from tupelo_cuda.flashinfer_attention import FlashInferAttention

        able = [i for i, s in enumerate(self._specs) if why_not(s, dtype, kv_dtype) is None]
        try:
            self.built["flashinfer"] = FlashInferAttention(
                {i: self._specs[i] for i in able},
                self._page_size,
                self._max_pages,
                self._runtime,
                dtype,
            )
        except (RuntimeError, OSError) as error:  # no compiler, or it failed: the next one serves
            first = str(error).strip().splitlines() or [type(error).__name__]
            return f"its kernels could not be built: {first[0]}"
        return None
