# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Drawing a token without sorting the vocabulary. Op: ``sample_top_k_top_p``.

Each filter, and the draw itself, asks the same question: the smallest threshold t such that the
tokens above t count, or weigh, at most so much. It is answered by bisection over the row, exactly:
logits are compared as integers of the same order, and every pass moves both bounds to logits that
occur. Ties at a threshold are ordered by id, as a stable sort would. One program serves a row.

Source of filtering by thresholds instead of a sort: the sampling kernels of FlashInfer (Ye et al.,
2025).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tupelo.triton.elementary import power_of_two

BLOCK = 4096

_LOW = tl.constexpr(-2147483648)
_HIGH = tl.constexpr(2147483647)


@triton.jit
def _key(x):
    """An int32 that orders as the float32 does; both zeros are one."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(key):
    """The float32 of a key."""
    key = key.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _above(row_ptr, vocab, threshold, peak, BLOCK: tl.constexpr):
    """One pass: of the tokens above a key, how many and their weight ``sum exp(x - peak)``; the
    smallest key above it, and the largest not above it."""
    count = tl.zeros((BLOCK,), tl.int32)
    weight = tl.zeros((BLOCK,), tl.float32)
    over = tl.full((BLOCK,), _HIGH, tl.int32)
    under = tl.full((BLOCK,), _LOW, tl.int32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        inside = ids < vocab
        x = tl.load(row_ptr + ids, mask=inside, other=0.0)
        key = _key(x)
        above = inside & (key > threshold)
        below = inside & (key <= threshold)
        count += above.to(tl.int32)
        weight += tl.where(above, tl.exp(x - peak), 0.0)
        over = tl.minimum(over, tl.where(above, key, _HIGH))
        under = tl.maximum(under, tl.where(below, key, _LOW))
    return (
        tl.sum(count, axis=0),
        tl.sum(weight, axis=0),
        tl.min(over, axis=0).to(tl.int64),
        tl.max(under, axis=0).to(tl.int64),
    )


@triton.jit
def _threshold(row_ptr, vocab, low, high, goal, peak, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest key t in ``(low, high]`` such that the tokens above t count, or weigh, at most
    ``goal``; ``high`` is taken to qualify. Halves by value and by key in turn: values come near
    quickly, keys bound the number of passes."""
    turn = 0
    while high - low > 1:
        if turn % 2 == 0:
            middle = _key(_value(low) * 0.5 + _value(high) * 0.5).to(tl.int64)
        else:
            middle = low + (high - low) // 2
        middle = tl.minimum(tl.maximum(middle, low), high - 1)
        count, weight, over, under = _above(row_ptr, vocab, middle, peak, BLOCK)
        enough = (count.to(tl.float32) if COUNT else weight) <= goal
        high = tl.where(enough, tl.maximum(under, low + 1), high)
        low = tl.where(enough, low, tl.minimum(over - 1, high - 1))
        turn += 1
    return high


@triton.jit
def _row_facts(row_ptr, vocab, BLOCK: tl.constexpr):
    """The largest and the smallest logit of a row."""
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    smallest = tl.full((BLOCK,), float("inf"), tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        inside = ids < vocab
        x = tl.load(row_ptr + ids, mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.where(inside, x, float("-inf")))
        smallest = tl.minimum(smallest, tl.where(inside, x, float("inf")))
    return tl.max(largest, axis=0), tl.min(smallest, axis=0)


@triton.jit
def _likely_weight(row_ptr, vocab, peak, least, BLOCK: tl.constexpr):
    """Weight of the tokens that weigh at least ``least``."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + ids, mask=ids < vocab, other=float("-inf"))
        weight = tl.exp(x - peak)
        total += tl.where(weight >= least, weight, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _tie(row_ptr, vocab, key, index, BLOCK: tl.constexpr):
    """The id of the token number ``index``, by id, of those with a key; the last if there are
    fewer."""
    found = tl.full((BLOCK,), 0, tl.int32)
    seen = tl.full((), 0, tl.int32)
    for start in range(0, vocab, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row_ptr + ids, mask=ids < vocab, other=0.0)
        tied = ((ids < vocab) & (_key(x) == key)).to(tl.int32)
        before = seen + tl.cumsum(tied, axis=0) - tied
        found = tl.where((tied != 0) & (before <= index), ids, found)
        seen += tl.sum(tied, axis=0)
    return tl.max(found, axis=0)


@triton.jit(do_not_specialize_on_alignment=["top_k_ptr", "top_p_ptr", "min_p_ptr", "uniform_ptr"])
def _sample_kernel(
    logits_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    uniform_ptr,
    out_ptr,
    logits_stride,
    vocab,
    BLOCK: tl.constexpr,
):
    """Program: one row. After each filter the kept tokens are those above key ``last`` and the
    first ``ties`` of those at it; ``total`` is their weight."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * logits_stride
    peak, smallest = _row_facts(row_ptr, vocab, BLOCK)
    high = _key(peak).to(tl.int64)
    last = _key(smallest).to(tl.int64)
    _, total, _, _ = _above(row_ptr, vocab, last - 1, peak, BLOCK)
    ties = vocab.to(tl.float32)
    top_k = tl.load(top_k_ptr + row).to(tl.int64)
    if (top_k > 0) & (top_k < vocab):
        goal = (top_k - 1).to(tl.float32)
        last = _threshold(row_ptr, vocab, last - 1, high, goal, peak, True, BLOCK)
        count, weight, _, _ = _above(row_ptr, vocab, last, peak, BLOCK)
        ties = (top_k - count).to(tl.float32)
        total = weight + ties * tl.exp(_value(last) - peak)
    top_p = tl.load(top_p_ptr + row)
    if top_p < 1.0:
        goal = top_p * total
        before = last
        # "At most" where the filter says "less": the greatest float below the goal.
        under = _value(_key(goal) - 1)
        last = _threshold(row_ptr, vocab, last - 1, high, under, peak, False, BLOCK)
        _, weight, _, _ = _above(row_ptr, vocab, last, peak, BLOCK)
        each = tl.exp(_value(last) - peak)
        needed = tl.ceil((goal - weight) / tl.maximum(each, 1e-37))
        bound = tl.where(last == before, ties, vocab.to(tl.float32))
        if last != before:
            count, _, _, _ = _above(row_ptr, vocab, last - 1, peak, BLOCK)
            higher, _, _, _ = _above(row_ptr, vocab, last, peak, BLOCK)
            bound = (count - higher).to(tl.float32)
        ties = tl.minimum(tl.maximum(needed, 1.0), bound)
        total = weight + ties * each
    min_p = tl.load(min_p_ptr + row)
    if tl.exp(_value(last) - peak) < min_p:
        total = _likely_weight(row_ptr, vocab, peak, tl.minimum(min_p, 1.0), BLOCK)
        ties = vocab.to(tl.float32)
    mark = tl.load(uniform_ptr + row) * total
    chosen = _threshold(row_ptr, vocab, last - 1, high, mark, peak, False, BLOCK)
    _, weight, _, _ = _above(row_ptr, vocab, chosen, peak, BLOCK)
    index = tl.floor((mark - weight) / tl.maximum(tl.exp(_value(chosen) - peak), 1e-37))
    index = tl.minimum(index, tl.where(chosen == last, ties, vocab.to(tl.float32)) - 1.0)
    index = tl.maximum(index, 0.0).to(tl.int32)
    tl.store(out_ptr + row, _tie(row_ptr, vocab, chosen, index, BLOCK).to(tl.int64))


def sample_top_k_top_p(
    logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """As ``tupelo.ops.sampling.sample_top_k_top_p``; sums are float32 in another order."""
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows:
        # A sampler hands over columns of its tables; the kernel reads one value after the other.
        top_k, top_p, min_p, uniform = (
            column.contiguous() for column in (top_k, top_p, min_p, uniform)
        )
        block = min(BLOCK, power_of_two(vocab))
        _sample_kernel[(rows,)](
            logits,
            top_k,
            top_p,
            min_p,
            uniform,
            out,
            logits.stride(0),
            vocab,
            BLOCK=block,
            num_warps=max(1, block // 256),
        )
    return out
