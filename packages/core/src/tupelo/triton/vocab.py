# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Work over whole rows of logits: masks, the best id, log-probabilities.

Op: ``apply_token_bitmask``. A row is cut into chunks that run side by side, and a second launch
joins them: one row of 128k logits would keep one program busy for long.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.ops.sampling import NEGATIVE
from tupelo.triton.elementary import cdiv, power_of_two

CHUNK = 4096
_NO_ID = tl.constexpr(2147483647)


@triton.jit(do_not_specialize_on_alignment=["mask_ptr"])
def _bitmask_kernel(
    logits_ptr, mask_ptr, out_ptr, logits_stride, mask_stride, vocab, lowest, BLOCK: tl.constexpr
):
    """Program (row, block of ids)."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab
    words = tl.load(mask_ptr + row * mask_stride + ids // 32, mask=inside, other=0)
    allowed = ((words >> (ids % 32)) & 1) != 0
    x = tl.load(logits_ptr + row * logits_stride + ids, mask=inside & allowed, other=0.0)
    wide = tl.where(allowed, x.to(tl.float32), lowest)
    tl.store(out_ptr + row * vocab + ids, wide.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _chunk_best_kernel(logits_ptr, best_ptr, ids_ptr, logits_stride, vocab, CHUNK: tl.constexpr):
    """Program (row, chunk): its largest logit and the first id that has it."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    at = logits_ptr + row * logits_stride + ids
    x = tl.load(at, mask=ids < vocab, other=float("-inf")).to(tl.float32)
    best = tl.max(x, axis=0)
    first = tl.min(tl.where((x == best) & (ids < vocab), ids, _NO_ID), axis=0)
    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(best_ptr + place, best)
    tl.store(ids_ptr + place, first)


@triton.jit
def _best_kernel(best_ptr, ids_ptr, out_ptr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Program: one row's chunks."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    inside = chunk < CHUNKS
    best = tl.load(best_ptr + row * CHUNKS + chunk, mask=inside, other=float("-inf"))
    ids = tl.load(ids_ptr + row * CHUNKS + chunk, mask=inside, other=_NO_ID)
    first = tl.min(tl.where(best == tl.max(best, axis=0), ids, _NO_ID), axis=0)
    tl.store(out_ptr + row, first.to(tl.int64))


@triton.jit
def _chunk_sum_kernel(logits_ptr, peak_ptr, sum_ptr, logits_stride, vocab, CHUNK: tl.constexpr):
    """Program (row, chunk): its largest logit, and the sum of exponentials relative to that."""
    row = tl.program_id(0).to(tl.int64)
    ids = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    at = logits_ptr + row * logits_stride + ids
    x = tl.load(at, mask=ids < vocab, other=float("-inf")).to(tl.float32)
    peak = tl.maximum(tl.max(x, axis=0), -3e38)
    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(peak_ptr + place, peak)
    tl.store(sum_ptr + place, tl.sum(tl.exp(x - peak), axis=0))


@triton.jit(do_not_specialize_on_alignment=["ids_ptr"])
def _logprob_kernel(
    logits_ptr,
    peak_ptr,
    sum_ptr,
    ids_ptr,
    out_ptr,
    logits_stride,
    CHUNKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program: one row; the log-probability of its id."""
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, BLOCK)
    inside = chunk < CHUNKS
    peaks = tl.load(peak_ptr + row * CHUNKS + chunk, mask=inside, other=-3e38)
    sums = tl.load(sum_ptr + row * CHUNKS + chunk, mask=inside, other=0.0)
    peak = tl.max(peaks, axis=0)
    total = tl.log(tl.sum(sums * tl.exp(peaks - peak), axis=0))
    chosen = tl.load(logits_ptr + row * logits_stride + tl.load(ids_ptr + row).to(tl.int64))
    tl.store(out_ptr + row, chosen.to(tl.float32) - peak - total)


def apply_token_bitmask(logits: Tensor, mask: Tensor) -> Tensor:
    """As ``tupelo.ops.sampling.apply_token_bitmask``."""
    rows, vocab = logits.shape
    out = torch.empty((rows, vocab), dtype=logits.dtype, device=logits.device)
    if rows:
        block = min(1024, power_of_two(vocab))
        lowest = max(NEGATIVE, torch.finfo(logits.dtype).min)
        _bitmask_kernel[(rows, cdiv(vocab, block))](
            logits, mask, out, logits.stride(0), mask.stride(0), vocab, lowest, BLOCK=block
        )
    return out


def argmax(logits: Tensor) -> Tensor:
    """The first id of the largest logit of each row.

    Args:
        logits: (num_rows, vocab_size), any float type.

    Returns:
        (num_rows,) int64.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if not rows:
        return out
    chunk = min(CHUNK, power_of_two(vocab))
    chunks = cdiv(vocab, chunk)
    best = torch.empty((rows, chunks), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, chunks), dtype=torch.int32, device=logits.device)
    _chunk_best_kernel[(rows, chunks)](logits, best, ids, logits.stride(0), vocab, CHUNK=chunk)
    _best_kernel[(rows,)](best, ids, out, CHUNKS=chunks, BLOCK=power_of_two(chunks))
    return out


def gather_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """``log_softmax(logits)[row, ids[row]]``, without the log-softmax of everything.

    Args:
        logits: (num_rows, vocab_size), any float type. ids: (num_rows,) integers.

    Returns:
        (num_rows,) float32.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if not rows:
        return out
    chunk = min(CHUNK, power_of_two(vocab))
    chunks = cdiv(vocab, chunk)
    peak = torch.empty((rows, chunks), dtype=torch.float32, device=logits.device)
    total = torch.empty_like(peak)
    _chunk_sum_kernel[(rows, chunks)](logits, peak, total, logits.stride(0), vocab, CHUNK=chunk)
    _logprob_kernel[(rows,)](
        logits, peak, total, ids, out, logits.stride(0), CHUNKS=chunks, BLOCK=power_of_two(chunks)
    )
    return out
