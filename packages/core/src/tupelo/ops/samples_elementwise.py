"""Samples of the ops that work row by row: norms, rope, activations, embedding, merge, quantize."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tupelo.ops.samples import LARGE, LONG, Draw, view_of
from tupelo.ops.spec import OpCall, Sample

EPS = 1e-5

WIDE_NORM = (("norm_dtype", "float32"),)
"""Statics of a call whose norm weight stays float32, as ``1 + weight`` does in Gemma."""


class Alone:
    """A group of one rank, for ``all_reduce_add_norm``; the kit puts the backend's in its place."""

    rank = 0
    world_size = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


def rms_norm_samples() -> Iterator[Sample]:
    """``rms_norm``: hidden states, and heads (three axes) as a per-head norm sees them."""
    draw = Draw("rms_norm")
    inputs = [*_hidden(draw), ("heads", draw.normal(4, 3, 32)), ("heads_strided", _heads(draw))]
    for name, x in inputs:
        size = x.shape[-1]
        args = {"x": x, "weight": draw.weight(size), "eps": EPS}
        call = OpCall(op="rms_norm", dtype="", shape=(size,))
        yield Sample(id=name, args=args, call=call)
        if name == "typical":
            wide = replace(call, statics=WIDE_NORM)
            yield Sample(id="wide_norm", args=args, call=wide, float32_args=("weight",))


def add_rms_norm_samples() -> Iterator[Sample]:
    """``add_rms_norm``: as ``rms_norm``, the residual strided where ``x`` is."""
    yield from _added("add_rms_norm", {})


def all_reduce_add_norm_samples() -> Iterator[Sample]:
    """``all_reduce_add_norm`` over a group of one; level 4 has groups of two."""
    yield from _added("all_reduce_add_norm", {"group": Alone()})


def rope_samples() -> Iterator[Sample]:
    """``rope``: whole and partial rotation, first and last position, positions out of order."""
    draw = Draw("rope")
    table = cos_sin(64, 16)
    inputs = [
        ("typical", draw.normal(5, 4, 16), table),
        ("one_row", draw.normal(1, 4, 16), table),
        ("odd", draw.normal(3, 5, 22), cos_sin(64, 22)),
        ("partial", draw.normal(5, 2, 32), table),
        ("empty", draw.normal(0, 4, 16), table),
        ("strided", view_of(draw.normal(4, 3, 16)), table),
        ("large", draw.uniform(3, 4, 16, low=-LARGE, high=LARGE), table),
    ]
    for name, x, angles in inputs:
        args = {"x": x, "positions": _positions(draw, x.shape[0]), "cos_sin": angles}
        shape = (x.shape[1], x.shape[2], angles.shape[1])
        call = OpCall(op="rope", dtype="", shape=shape)
        yield Sample(id=name, args=args, call=call, scale=LARGE if name == "large" else 1.0)


def norm_rope_qkv_samples() -> Iterator[Sample]:
    """``norm_rope_qkv``: with and without the norms, grouped heads, a partial rotation."""
    draw = Draw("norm_rope_qkv")
    table = cos_sin(64, 16)
    cases: list[tuple[str, int, tuple[int, int, int], bool, Tensor]] = [
        ("typical", 5, (4, 2, 16), True, table),
        ("no_norm", 5, (4, 2, 16), False, table),
        ("wide_norm", 5, (4, 2, 16), True, table),
        ("one_row", 1, (4, 2, 16), True, table),
        ("odd", 3, (3, 1, 22), True, cos_sin(64, 22)),
        ("partial", 5, (2, 2, 32), False, table),
        ("empty", 0, (4, 2, 16), True, table),
        ("strided", 4, (4, 2, 16), True, table),
        ("large", 3, (4, 2, 16), False, table),
    ]
    for name, rows, (heads, kv_heads, dim), norm, angles in cases:
        width = (heads + 2 * kv_heads) * dim
        qkv = draw.normal(rows, width)
        if name == "strided":
            qkv = view_of(qkv)
        if name == "large":
            qkv = draw.uniform(rows, width, low=-LARGE, high=LARGE)
        args: dict[str, Any] = {
            "qkv": qkv,
            "positions": _positions(draw, rows),
            "cos_sin": angles,
            "q_norm": draw.weight(dim) if norm else None,
            "k_norm": draw.weight(dim) if norm else None,
            "eps": EPS,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": dim,
        }
        shape = (heads, kv_heads, dim, angles.shape[1])
        wide = name == "wide_norm"
        statics = (("qk_norm", norm), *(WIDE_NORM if wide else ()))
        yield Sample(
            id=name,
            args=args,
            call=OpCall(op="norm_rope_qkv", dtype="", shape=shape, statics=statics),
            scale=LARGE if name == "large" else 1.0,
            float32_args=("q_norm", "k_norm") if wide else (),
        )


def gate_samples(op: str) -> Iterator[Sample]:
    """``silu_mul`` and ``gelu_mul``: gates of both signs, saturated ones among them."""
    draw = Draw(op)
    large = draw.uniform(3, 96, low=-LARGE, high=LARGE)
    large[:, 48:] /= LARGE
    for name, x in (
        ("typical", draw.normal(5, 96, size=2.0)),
        ("one_row", draw.normal(1, 96)),
        ("odd", draw.normal(3, 2 * 53)),
        ("empty", draw.normal(0, 96)),
        ("strided", view_of(draw.normal(4, 96))),
        ("large", large),
    ):
        yield Sample(id=name, args={"x": x}, call=OpCall(op=op, dtype="", shape=(x.shape[1] // 2,)))


def embedding_samples() -> Iterator[Sample]:
    """``embedding``: first and last id, repeated ids, a scale that rounds in 16 bits."""
    draw = Draw("embedding")
    for name, rows, hidden, scale in (
        ("typical", 6, 64, 1.0),
        ("scaled", 6, 64, 640.0**0.5),
        ("one_row", 1, 64, 1.0),
        ("odd", 5, 77, 1.0),
        ("empty", 0, 64, 1.0),
        ("strided", 6, 64, 1.0),
        ("large", 6, 64, 1.0),
    ):
        ids = draw.integers(rows, high=101)
        ids[:3] = torch.tensor([0, 100, 100])[:rows]
        table = draw.normal(101, hidden, size=LARGE / 4 if name == "large" else 1.0)
        if name == "strided":
            table = view_of(table)
        args = {"ids": ids, "table": table, "scale": scale}
        yield Sample(id=name, args=args, call=OpCall(op="embedding", dtype="", shape=(101, hidden)))


def merge_attention_samples() -> Iterator[Sample]:
    """``merge_attention``: a side without keys, and weights that saturate."""
    draw = Draw("merge_attention")
    for name, rows, heads, dim in (
        ("typical", 5, 4, 16),
        ("one_row", 1, 4, 16),
        ("odd", 3, 3, 13),
        ("empty", 0, 4, 16),
        ("strided", 4, 3, 16),
        ("large", 4, 3, 16),
        ("one_side_empty", 4, 3, 16),
    ):
        out_a, out_b = draw.normal(rows, heads, dim), draw.normal(rows, heads, dim)
        lse_a, lse_b = draw.normal(rows, heads), draw.normal(rows, heads)
        if name == "strided":
            out_a, out_b = view_of(out_a), view_of(out_b)
        if name == "large":  # 50 apart: the smaller weight is below float32's precision
            lse_a, lse_b = torch.full_like(lse_a, LARGE), torch.full_like(lse_b, LARGE - 50)
            lse_b[0] = LARGE + 50
        if name == "one_side_empty":
            lse_a[0], lse_b[1] = -torch.inf, -torch.inf
        args = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
        yield Sample(
            id=name, args=args, call=OpCall(op="merge_attention", dtype="", shape=(heads, dim))
        )


def quantize_samples() -> Iterator[Sample]:
    """``quantize``: a zero row, one outlier, values of 1e4."""
    draw = Draw("quantize")
    rows_with_zero = draw.normal(5, 64)
    rows_with_zero[2] = 0.0
    rows_with_zero[3, 7] = 300.0
    for name, x in (
        ("typical", rows_with_zero),
        ("one_row", draw.normal(1, 64)),
        ("odd", draw.normal(3, 77)),
        ("empty", draw.normal(0, 64)),
        ("strided", view_of(draw.normal(4, 64))),
        ("large", draw.uniform(3, 64, low=-LARGE, high=LARGE)),
    ):
        yield Sample(
            id=name, args={"x": x}, call=OpCall(op="quantize", dtype="", shape=(x.shape[1],))
        )


def cos_sin(max_position: int, rotary_dim: int) -> Tensor:
    """(max_position, rotary_dim) float32: cosines, then sines, of base 10,000."""
    exponent = torch.arange(rotary_dim // 2, dtype=torch.float64) * 2 / rotary_dim
    angles = torch.arange(max_position, dtype=torch.float64)[:, None] / 10000.0**exponent
    return torch.cat((angles.cos(), angles.sin()), dim=-1).float()


def _added(op: str, more: dict[str, Any]) -> Iterator[Sample]:
    draw = Draw(op)
    for name, x in _hidden(draw):
        residual = draw.normal(*x.shape)
        if name == "strided":
            residual = view_of(residual)
        args = {
            "x": x,
            "residual": residual,
            "weight": draw.weight(x.shape[-1]),
            "eps": EPS,
            **more,
        }
        call = OpCall(op=op, dtype="", shape=(x.shape[-1],))
        yield Sample(id=name, args=args, call=call, scale=LARGE if name == "large" else 1.0)
        if name == "typical":
            wide = replace(call, statics=WIDE_NORM)
            yield Sample(id="wide_norm", args=args, call=wide, float32_args=("weight",))


def _hidden(draw: Draw) -> list[tuple[str, Tensor]]:
    small = draw.normal(3, 64, size=1e-3)  # where eps decides; and a row of nothing but eps
    small[1] = 0.0
    return [
        ("typical", draw.normal(5, 64)),
        ("one_row", draw.normal(1, 64)),
        ("odd", draw.normal(3, 77)),
        ("empty", draw.normal(0, 64)),
        ("strided", view_of(draw.normal(4, 64))),
        ("large", draw.uniform(3, 64, low=-LARGE, high=LARGE)),
        ("small", small),
        ("long", draw.normal(2, LONG, size=0.05) + 2.0),
    ]


def _heads(draw: Draw) -> Tensor:
    return view_of(draw.normal(4, 3, 32))


def _positions(draw: Draw, rows: int) -> Tensor:
    positions = draw.integers(rows, high=64)
    positions[:2] = torch.tensor([63, 0])[:rows]
    return positions
