"""FlashInfer's paged-attention wrapper, planned without a copy from the device or a blocking one.

The wrapper's own ``plan`` copies index arrays out of unpinned memory and through one pinned buffer
that a step in flight may still be reading. Here it is called once, to choose and load the kernels;
after that ``Planner.replan`` calls the kernels' planner itself, as FlashInfer's own
``fast_decode_plan`` does, with index arrays that the caller has sent and a pinned buffer of a ring.
"""

import logging
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tupelo.backend.staging import StagingRing
from tupelo.batch import IntArray
from tupelo.specs import AttentionSpec

logger = logging.getLogger(__name__)

HEAD_DIMS = (64, 128, 256)
DTYPES = (torch.bfloat16, torch.float16)
WORKSPACE_BYTES = 384 << 20
PLAN_BYTES = 8 << 20
TESTED = "0.6."
"""Versions whose planner has the arguments that ``replan`` passes."""


def why_not(spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> str | None:
    """None if FlashInfer can serve layers of ``spec``, else the reason why not."""
    try:
        import flashinfer  # noqa: F401
        import triton  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        return f"it cannot be imported: {error}"
    found = version("flashinfer-python")
    if not found.startswith(TESTED):
        return f"flashinfer-python {found} is not one that this backend knows ({TESTED}x)"
    if dtype not in DTYPES or kv_dtype is not dtype:
        return f"it computes in 16 bits, not {dtype} over {kv_dtype}"
    if spec.head_dim not in HEAD_DIMS:
        return f"head_dim {spec.head_dim} is none of {HEAD_DIMS}"
    return None


def num_modules() -> int:
    """FlashInfer's modules that were asked for so far; none where it is not loaded."""
    jit = sys.modules.get("flashinfer.jit.core")
    return 0 if jit is None else len(jit.jit_spec_registry.get_all_specs())


@dataclass(frozen=True, slots=True)
class Kind:
    """What FlashInfer's kernels are chosen by.

    Attributes:
        spec: of the layers. dtype: of q, K and V. page_size: tokens a page.
    """

    spec: AttentionSpec
    dtype: torch.dtype
    page_size: int

    @property
    def window_left(self) -> int:
        """FlashInfer's count of visible tokens before the query; -1: all."""
        return -1 if self.spec.window is None else self.spec.window - 1

    def backend(self, device: torch.device) -> str:
        """FlashInfer's kernel family: Hopper's own, or the portable one."""
        return "fa3" if torch.cuda.get_device_capability(device)[0] == 9 else "fa2"

    def module_key(self, device: torch.device) -> tuple[Any, ...]:
        """Arguments of ``get_batch_prefill_module``."""
        dim = self.spec.head_dim
        capped = self.spec.soft_cap is not None
        index = torch.int32
        types = (self.dtype, self.dtype, self.dtype, index)
        return (self.backend(device), *types, dim, dim, 0, self.window_left >= 0, capped, False)


def build_modules(kinds: list[Kind], device: torch.device) -> None:
    """Load the kernels of all ``kinds``, building absent ones side by side.

    Raises:
        RuntimeError, OSError: no compiler, or it failed.
    """
    from flashinfer.prefill import get_batch_prefill_module

    keys = list(dict.fromkeys(kind.module_key(device) for kind in kinds))
    began = time.perf_counter()
    logger.info("loading %d FlashInfer modules; absent ones are built, a minute or two", len(keys))
    with ThreadPoolExecutor(len(keys)) as pool:
        for future in [pool.submit(get_batch_prefill_module, *key) for key in keys]:
            future.result()
    logger.info("FlashInfer modules ready in %.1f s", time.perf_counter() - began)


class Workspaces:
    """Scratch memory of all wrappers on one stream.

    Attributes:
        floats: partial results; used by one attention call at a time.
        ring: pinned buffers that plans are written into.
    """

    def __init__(self, device: torch.device, ring: StagingRing) -> None:
        self.floats = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self.ring = ring


class Planner:
    """FlashInfer's wrappers for one kind, planned for the prompts of one step after another.

    Prompts read K/V from pages or, where nothing of theirs was stored before the step, as they come
    out of the model, which is faster by a fifth to a third.
    """

    def __init__(self, kind: Kind, workspaces: Workspaces) -> None:
        from flashinfer.prefill import (
            BatchPrefillWithPagedKVCacheWrapper,
            BatchPrefillWithRaggedKVCacheWrapper,
        )

        self._kind = kind
        self._workspaces = workspaces
        device, spec = workspaces.floats.device, kind.spec
        self._backend = kind.backend(device)
        self._ints = torch.empty(PLAN_BYTES, dtype=torch.uint8, device=device)
        ends = torch.arange(2, dtype=torch.int32)
        one = torch.ones(1, dtype=torch.int32)
        heads = (spec.num_heads, spec.num_kv_heads, spec.head_dim)
        options = {
            "causal": True,
            "sm_scale": spec.scale,
            "window_left": kind.window_left,
            "logits_soft_cap": spec.soft_cap,
            "q_data_type": kind.dtype,
            "kv_data_type": kind.dtype,
        }
        self._paged, self._fresh = (
            make(workspaces.floats, "NHD", backend=self._backend)
            for make in (BatchPrefillWithPagedKVCacheWrapper, BatchPrefillWithRaggedKVCacheWrapper)
        )
        for wrapper in (self._paged, self._fresh):
            wrapper._int_workspace_buffer = self._ints
        self._paged.plan(ends, ends, one - 1, one, *heads, kind.page_size, **options)
        self._fresh.plan(ends, ends, *heads, **options)
        # Their own pinned buffers are not used again, once the copies out of them have run.
        torch.cuda.current_stream(device).synchronize()
        for wrapper in (self._paged, self._fresh):
            wrapper._pin_memory_int_workspace_buffer = None

    def plan_pages(
        self,
        host_ends: IntArray,
        host_indptr: IntArray,
        host_lens: IntArray,
        device_arrays: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        """Plan for rows whose index arrays are already on their way to the device.

        Args:
            host_ends: (rows + 1,) offsets of the rows' query tokens.
            host_indptr: (rows + 1,) offsets of their pages. host_lens: (rows,) K/V lengths.
            device_arrays: ends, indptr, indices, last page lengths.
        """
        wrapper = self._paged
        wrapper._qo_indptr_buf, wrapper._paged_kv_indptr_buf = device_arrays[:2]
        wrapper._paged_kv_indices_buf, wrapper._paged_kv_last_page_len_buf = device_arrays[2:]
        wrapper._batch_size = len(host_lens)
        self._plan(wrapper, host_ends, host_indptr, host_lens, self._kind.page_size)

    def plan_fresh(self, host_ends: IntArray, device_ends: Tensor) -> None:
        """Plan for rows that have no K/V but those of their query tokens."""
        self._fresh._qo_indptr_buf = self._fresh._kv_indptr_buf = device_ends
        self._fresh._o_indptr_buf = self._fresh._v_indptr_buf = device_ends
        self._plan(self._fresh, host_ends, host_ends, np.diff(host_ends), 1)

    def _plan(
        self,
        wrapper: Any,
        host_ends: IntArray,
        host_indptr: IntArray,
        host_lens: IntArray,
        page_size: int,
    ) -> None:
        kind, spec = self._kind, self._kind.spec
        wrapper._qo_indptr_last = int(host_ends[-1])
        entry = self._workspaces.ring.take()
        arguments: list[Any] = [
            self._workspaces.floats,
            self._ints,
            entry.tensor,
            torch.from_numpy(host_ends),
            torch.from_numpy(host_indptr),
            torch.from_numpy(host_lens),
            int(host_ends[-1]),
            len(host_lens),
            spec.num_heads,
            spec.num_kv_heads,
            page_size,
            False,  # no graph reads it
            spec.head_dim,
            spec.head_dim,
            True,  # causal
            kind.window_left,
        ]
        if self._backend == "fa2":
            arguments += [-1, False, 0]
        wrapper._plan_info = wrapper._cached_module.plan(*arguments)
        entry.sent()

    def run_pages(self, q: Tensor, k_pool: Tensor, v_pool: Tensor, out: Tensor) -> None:
        """Attention of ``q`` (tokens, num_heads, head_dim) into ``out``."""
        self._paged.run(q, (k_pool, v_pool), out=out)

    def run_fresh(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        """The same over ``k``, ``v`` (tokens, num_kv_heads, head_dim), the last axis contiguous."""
        self._fresh.run(q, k, v, out=out)
