"""FlashInfer's paged-attention wrapper, planned without a copy from the device or a blocking one.

The wrapper's own ``plan`` copies index arrays out of unpinned memory and through one pinned buffer
that a step in flight may still be reading. Here it is called once, to choose and load the kernels;
after that ``Planner.replan`` calls the kernels' planner itself, as FlashInfer's own
``fast_decode_plan`` does, with index arrays that the caller has sent and a pinned buffer of a ring.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from tupelo.batch import IntArray
from tupelo.specs import AttentionSpec
from tupelo_cuda.staging import StagingRing

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


@dataclass(frozen=True, slots=True)
class Kind:
    """What FlashInfer's kernels are chosen by.

    Attributes:
        spec: of the layers. dtype: of q, K and V. page_size: tokens a page.
        prompts: for rows of many tokens (causal), else for rows of one.
    """

    spec: AttentionSpec
    dtype: torch.dtype
    page_size: int
    prompts: bool

    @property
    def window_left(self) -> int:
        """FlashInfer's count of visible tokens before the query; -1: all."""
        return -1 if self.spec.window is None else self.spec.window - 1

    def backend(self, device: torch.device) -> str:
        """FlashInfer's kernel family: Hopper's own for prompts, else the portable one."""
        hopper = torch.cuda.get_device_capability(device)[0] == 9
        return "fa3" if hopper and self.prompts else "fa2"

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
        self._plans: dict[Any, Tensor] = {}

    def plan_memory(self, key: Any) -> Tensor:
        """Device memory for the plans of one part of a step: one for each ``key``."""
        if key not in self._plans:
            self._plans[key] = torch.empty(PLAN_BYTES, dtype=torch.uint8, device=self.floats.device)
        return self._plans[key]


@dataclass(slots=True)
class FixedBuffers:
    """Index arrays that a captured graph reads: of ``rows`` rows, refilled by the caller.

    ``indptr`` (rows + 1,), ``indices`` (as many as ever needed,), ``last`` (rows,), all int32.
    """

    rows: int
    indptr: Tensor
    indices: Tensor
    last: Tensor


class Planner:
    """One wrapper: for prompts or decode rows of any number, or for a fixed number in a graph."""

    def __init__(
        self, kind: Kind, workspaces: Workspaces, plan_memory: Tensor, fixed: FixedBuffers | None
    ) -> None:
        from flashinfer.prefill import BatchPrefillWithPagedKVCacheWrapper

        self._kind = kind
        self._workspaces = workspaces
        self._fixed = fixed
        self._device = workspaces.floats.device
        self._backend = kind.backend(self._device)
        spec = kind.spec
        rows = 1 if fixed is None else fixed.rows
        ends = torch.arange(rows + 1, dtype=torch.int32)
        # With more rows than this no row's K/V can be split. Such a plan launches one program a row
        # and head whatever the lengths, so it needs no graph mode: that one adds programs, which
        # only a split plan masks, and a merge.
        sms = torch.cuda.get_device_properties(self._device).multi_processor_count
        self._no_split = fixed is not None and rows > 2 * sms // spec.num_kv_heads
        self._graph_mode = fixed is not None and not self._no_split
        options: dict[str, Any] = {}
        if fixed is not None and self._graph_mode:
            options = {
                "use_cuda_graph": True,
                "qo_indptr_buf": ends.to(self._device),
                "paged_kv_indptr_buf": fixed.indptr,
                "paged_kv_indices_buf": fixed.indices,
                "paged_kv_last_page_len_buf": fixed.last,
            }
        self._wrapper = BatchPrefillWithPagedKVCacheWrapper(
            workspaces.floats, "NHD", backend=self._backend, **options
        )
        self._wrapper._int_workspace_buffer = plan_memory
        self._wrapper.plan(
            ends,
            ends,
            torch.zeros(rows, dtype=torch.int32),
            torch.ones(rows, dtype=torch.int32),
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            kind.page_size,
            causal=kind.prompts,
            sm_scale=spec.scale,
            window_left=kind.window_left,
            logits_soft_cap=spec.soft_cap,
            q_data_type=kind.dtype,
            kv_data_type=kind.dtype,
            disable_split_kv=self._no_split,
        )
        if fixed is not None and self._no_split:
            self._set_arrays(ends.to(self._device), fixed.indptr, fixed.indices, fixed.last)
        # Its own pinned buffer is not used again, once the copy out of it has run.
        torch.cuda.current_stream(self._device).synchronize()
        self._wrapper._pin_memory_int_workspace_buffer = None

    def replan(
        self,
        host_ends: IntArray,
        host_indptr: IntArray,
        host_lens: IntArray,
        device_arrays: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    ) -> None:
        """Plan for rows whose index arrays are already on their way to the device.

        Args:
            host_ends: (rows + 1,) offsets of the rows' query tokens.
            host_indptr: (rows + 1,) offsets of their pages. host_lens: (rows,) K/V lengths.
            device_arrays: ends, indptr, indices, last page lengths; None where they are fixed.
        """
        wrapper, kind, spec = self._wrapper, self._kind, self._kind.spec
        if device_arrays is not None:
            self._set_arrays(*device_arrays)
        rows, total = len(host_lens), int(host_ends[-1])
        wrapper._batch_size = rows
        wrapper._qo_indptr_last = total
        entry = self._workspaces.ring.take()
        arguments: list[Any] = [
            self._workspaces.floats,
            wrapper._int_workspace_buffer,
            entry.tensor,
            torch.from_numpy(host_ends),
            torch.from_numpy(host_indptr),
            torch.from_numpy(host_lens),
            total,
            rows,
            spec.num_heads,
            spec.num_kv_heads,
            kind.page_size,
            self._graph_mode,
            spec.head_dim,
            spec.head_dim,
            kind.prompts,
            kind.window_left,
        ]
        if self._backend == "fa2":
            arguments += [-1, self._no_split, 0]
        wrapper._plan_info = wrapper._cached_module.plan(*arguments)
        entry.sent()

    def _set_arrays(self, ends: Tensor, indptr: Tensor, indices: Tensor, last: Tensor) -> None:
        wrapper = self._wrapper
        wrapper._qo_indptr_buf = ends
        wrapper._paged_kv_indptr_buf = indptr
        wrapper._paged_kv_indices_buf = indices
        wrapper._paged_kv_last_page_len_buf = last

    def run(self, q: Tensor, k_pool: Tensor, v_pool: Tensor, out: Tensor) -> None:
        """Attention of ``q`` (tokens, num_heads, head_dim) into ``out``."""
        self._wrapper.run(q, (k_pool, v_pool), out=out)
