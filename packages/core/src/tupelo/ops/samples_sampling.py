"""Samples of the ops around sampling, and of copying pages.

A draw by inverse transform is compared exactly, so each sample keeps clear of its boundaries: the
uniform number lies in the middle of an id's interval, top_p between two sums, and min_p between two
probabilities. ``filtered`` computes them in float64 numpy, apart from the op's reference.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.ops.samples import LARGE, Draw, view_of
from tupelo.ops.spec import OpCall, Sample

Doubles = npt.NDArray[np.float64]


def filtered(
    logits: npt.ArrayLike, top_k: int = -1, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[npt.NDArray[np.int64], Doubles]:
    """The ids that one row may draw, most probable first, and their probabilities, in float64.

    Args:
        logits: (vocab_size,), temperature applied.
    """
    row = np.asarray(logits, np.float64)
    ids = np.argsort(-row, kind="stable")
    ids = ids[: top_k if 0 < top_k < len(ids) else len(ids)]
    probs = np.exp(row[ids] - row[ids[0]])
    probs /= probs.sum()
    mass, kept = 0.0, 0
    while kept < len(ids) and (mass < top_p or top_p >= 1.0):
        mass += probs[kept]
        kept += 1
    ids, probs = ids[:kept], probs[:kept]
    likely = probs >= min_p * probs[0]
    ids, probs = ids[likely], probs[likely]
    return ids, probs / probs.sum()


def sample_top_k_top_p_samples() -> Iterator[Sample]:
    """``sample_top_k_top_p``: each filter, all together; the first, a middle and the last kept."""
    draw = Draw("sample_top_k_top_p")
    for name, rows, vocab in (
        ("typical", 12, 64),
        ("one_row", 1, 64),
        ("odd", 8, 77),
        ("empty", 0, 64),
        ("strided", 8, 64),
        ("large", 4, 64),
        ("wide", 6, 5000),
        ("ties", 8, 64),
    ):
        logits = draw.normal(rows, vocab, size=2.0)
        if name == "large":
            logits *= LARGE
        if name == "ties":
            logits = (logits / 2).round()
        top_k, top_p, min_p = _filters(logits, row_offset=3 if name == "one_row" else 0)
        uniform = _uniform(logits, top_k, top_p, min_p)
        if name == "strided":
            logits = view_of(logits)
            top_k, top_p, min_p, uniform = map(_column, (top_k, top_p, min_p, uniform))
        args = {
            "logits": logits,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "uniform": uniform,
        }
        yield Sample(
            id=name, args=args, call=OpCall(op="sample_top_k_top_p", dtype="", shape=(vocab,))
        )


def _column(values: Tensor) -> Tensor:
    """The same values as a column of a table, as a sampler keeps its parameters."""
    return torch.stack((values, values.flip(0)), dim=1)[:, 0]


def apply_token_bitmask_samples() -> Iterator[Sample]:
    """``apply_token_bitmask``: the sign bit of a word, a last word in part, one allowed id."""
    draw = Draw("apply_token_bitmask")
    for name, rows, vocab in (
        ("typical", 5, 96),
        ("one_row", 1, 96),
        ("odd", 3, 77),
        ("empty", 0, 96),
        ("strided", 4, 96),
        ("large", 3, 96),
    ):
        logits = draw.normal(rows, vocab, size=LARGE / 4 if name == "large" else 1.0)
        allowed = draw.uniform(rows, vocab, low=0, high=1) < 0.5
        if rows:
            allowed[0] = False
            allowed[0, 31] = True
        args = {
            "logits": view_of(logits) if name == "strided" else logits,
            "mask": pack_bits(allowed),
        }
        yield Sample(
            id=name, args=args, call=OpCall(op="apply_token_bitmask", dtype="", shape=(vocab,))
        )


def copy_pages_samples() -> Iterator[Sample]:
    """``copy_pages``: chains and swaps, which a copy that reads what it wrote gets wrong."""
    draw = Draw("copy_pages")
    for name, source, target in (
        ("typical", [5, 2], [0, 7]),
        ("one_row", [3], [6]),
        ("chain", [0, 1, 2], [1, 2, 3]),
        ("swap", [4, 6], [6, 4]),
        ("same_source", [2, 2, 2], [0, 5, 7]),
        ("empty", [], []),
        ("strided", [5, 2], [0, 7]),
        ("large", [5, 2], [0, 7]),
    ):
        pool = draw.normal(8, 4, 2, 8, size=LARGE / 4 if name == "large" else 1.0)
        if name == "strided":
            pool = torch.cat((pool, pool), dim=1)[:, :4]
        args = {
            "pool": pool,
            "source": torch.tensor(source, dtype=torch.int64),
            "target": torch.tensor(target, dtype=torch.int64),
        }
        yield Sample(
            id=name, args=args, call=OpCall(op="copy_pages", dtype="", shape=(pool[0].numel(),))
        )


def pack_bits(allowed: Tensor) -> Tensor:
    """(num_rows, vocab_size) bool to (num_rows, ceil(vocab_size / 32)) int32."""
    rows, vocab = allowed.shape
    width = -(-vocab // 32)
    bits = np.zeros((rows, width * 32), np.uint8)
    bits[:, :vocab] = allowed.numpy()
    words = np.packbits(bits, axis=1, bitorder="little").view(np.int32)
    return torch.from_numpy(words.reshape(rows, width).copy())


def _filters(logits: Tensor, row_offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows take turns: none, top_k, top_p, min_p, all three, top_k above the vocabulary."""
    rows, vocab = logits.shape
    top_k = torch.full((rows,), -1, dtype=torch.int64)
    top_p, min_p = torch.ones(rows), torch.zeros(rows)
    for row in range(rows):
        turn = (row + row_offset) % 6
        if turn in (1, 4):
            top_k[row] = 7
        if turn == 5:
            top_k[row] = vocab + 3
        _, probs = filtered(logits[row].numpy(), int(top_k[row]))
        if turn in (2, 4):
            sums = np.cumsum(probs)
            top_p[row] = float(sums[2] + sums[3]) / 2 if sums[2] < 0.999 else 0.5
        if turn in (3, 4):
            steps = np.flatnonzero(probs[:-1] > 1.2 * probs[1:])
            last = int(steps[min(1, len(steps) - 1)])
            min_p[row] = float((probs[last] + probs[last + 1]) / 2 / probs[0])
    return top_k, top_p, min_p


def _uniform(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """For each row the middle of the interval of its last, first or a middle likely id."""
    values = torch.zeros(logits.shape[0])
    for row in range(logits.shape[0]):
        _, probs = filtered(
            logits[row].numpy(), int(top_k[row]), float(top_p[row]), float(min_p[row])
        )
        likely = np.flatnonzero(probs > 2e-3)
        index = int(likely[(len(likely) - 1, 0, len(likely) // 2)[row % 3]])
        values[row] = float(probs[:index].sum() + probs[index] / 2)
    return values
