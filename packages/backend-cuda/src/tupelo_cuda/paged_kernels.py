# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, untyped-decorator"
"""A small Triton kernel around a vendor's attention: listing the pages of a step's rows.

Imported only where triton is: a module of its own, so that the rest of the package needs none.
"""

import triton
import triton.language as tl
from torch import Tensor

LIST_BLOCK = 256


@triton.jit(
    do_not_specialize=["table_stride"],
    do_not_specialize_on_alignment=["slots_ptr", "indptr_ptr", "indices_ptr"],
)
def _list_kernel(table_ptr, slots_ptr, indptr_ptr, indices_ptr, table_stride, BLOCK: tl.constexpr):
    """Program (row, block): copy a part of the row's page table to its place in the list."""
    row = tl.program_id(0)
    start = tl.load(indptr_ptr + row)
    count = tl.load(indptr_ptr + row + 1) - start
    slot = tl.load(slots_ptr + row).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    page = tl.load(table_ptr + slot * table_stride + at, mask=inside, other=0)
    tl.store(indices_ptr + start + at, tl.maximum(page, 0), mask=inside)


def list_pages(
    table: Tensor, slots: Tensor, indptr: Tensor, indices: Tensor, num_rows: int, max_pages: int
) -> None:
    """Concatenate the page lists of some rows: ``indices[indptr[i]:indptr[i + 1]] =
    table[slots[i], :...]``.

    Args:
        table: (num_slots + 1, width) int32. slots: (num_rows,) int64.
        indptr: (num_rows + 1,) int32, on the device. indices: written.
        max_pages: of the longest row.
    """
    if num_rows:
        grid = (num_rows, triton.cdiv(max_pages, LIST_BLOCK))
        _list_kernel[grid](table, slots, indptr, indices, table.stride(0), BLOCK=LIST_BLOCK)
