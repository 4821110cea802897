"""Samples of the ops that multiply by weights: linear, its fused forms, mixture of experts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tupelo.ops.samples import LARGE, LONG, Draw, view_of
from tupelo.ops.samples_elementwise import EPS, WIDE_NORM
from tupelo.ops.spec import OpCall, Sample
from tupelo.ops.weight import LinearWeight


def linear_samples() -> Iterator[Sample]:
    """``linear``: rows around the sizes of a kernel's tiles, with and without bias."""
    draw = Draw("linear")
    for name, rows, out, features, bias in (
        ("typical", 5, 48, 64, False),
        ("bias", 5, 48, 64, True),
        ("one_row", 1, 48, 64, False),
        ("rows_17", 17, 32, 64, False),
        ("rows_70", 70, 100, 64, True),
        ("odd", 3, 53, 77, True),
        ("empty", 0, 48, 64, False),
        ("strided", 4, 48, 64, False),
        ("large", 3, 48, 64, False),
        ("long", 3, 16, LONG, False),
    ):
        x = _rows(draw, name, rows, features)
        if name == "large":
            weight = _weight(draw, out, features, size=1e-2)
        elif name == "long":
            weight = _positive(draw, out, features)
        else:
            weight = _weight(draw, out, features, bias=bias)
        call = OpCall(op="linear", dtype="", shape=(out, features))
        scale = LARGE * 0.1 if name == "large" else 1.0
        yield Sample(id=name, args={"x": x, "weight": weight}, call=call, scale=scale)


def add_norm_linear_samples() -> Iterator[Sample]:
    """``add_norm_linear``: with a residual and, as at a model's first layer, without."""
    draw = Draw("add_norm_linear")
    for name, rows, out, hidden in (
        ("typical", 5, 48, 64),
        ("first_layer", 5, 48, 64),
        ("one_row", 1, 48, 64),
        ("rows_17", 17, 32, 64),
        ("odd", 3, 53, 77),
        ("empty", 0, 48, 64),
        ("strided", 4, 48, 64),
        ("large", 3, 48, 64),
        ("long", 2, 16, LONG),
    ):
        x = _rows(draw, name, rows, hidden)
        residual = draw.normal(rows, hidden)
        args: dict[str, Any] = {
            "x": x,
            "residual": view_of(residual) if name == "strided" else residual,
            "norm_weight": draw.weight(hidden),
            "eps": EPS,
            "weight": _weight(draw, out, hidden),
        }
        if name == "first_layer":
            args["residual"] = None
        if name == "long":
            args |= {"residual": None, "weight": _positive(draw, out, hidden)}
        call = OpCall(op="add_norm_linear", dtype="", shape=(out, hidden))
        yield Sample(id=name, args=args, call=call)
        if name == "typical":
            wide = replace(call, statics=WIDE_NORM)
            yield Sample(id="wide_norm", args=args, call=wide, float32_args=("norm_weight",))


def gated_mlp_samples() -> Iterator[Sample]:
    """``gated_mlp``: both activations."""
    draw = Draw("gated_mlp")
    for name, rows, hidden, inner, activation in (
        ("typical", 5, 64, 48, "silu"),
        ("gelu", 5, 64, 48, "gelu"),
        ("one_row", 1, 64, 48, "silu"),
        ("rows_17", 17, 32, 48, "silu"),
        ("odd", 3, 53, 77, "silu"),
        ("empty", 0, 64, 48, "silu"),
        ("strided", 4, 64, 48, "gelu"),
        ("large", 3, 64, 48, "silu"),
        ("long", 2, 16, LONG, "silu"),
    ):
        x = _rows(draw, name, rows, hidden)
        gate_up = _weight(draw, 2 * inner, hidden, size=1e-4 if name == "large" else None)
        down = _weight(draw, hidden, inner)
        if name == "long":  # gates and ups of about 0.75: a positive sum over inner
            x = draw.uniform(rows, hidden, low=0.5, high=1.0)
            gate_up = LinearWeight(2 * inner, hidden, {"weight": _mean(draw, 2 * inner, hidden)})
            down = _positive(draw, hidden, inner)
        args = {"x": x, "activation": activation, "gate_up": gate_up, "down": down}
        statics = (("activation", activation),)
        call = OpCall(op="gated_mlp", dtype="", shape=(hidden, inner), statics=statics)
        yield Sample(id=name, args=args, call=call, scale=10.0 if name == "large" else 1.0)


def moe_route_samples() -> Iterator[Sample]:
    """``moe_route``: logits on a grid that 16-bit types hold: neither ties nor rounding."""
    draw = Draw("moe_route")
    for name, rows, experts, top_k, renormalize in (
        ("typical", 5, 8, 2, True),
        ("plain_weights", 5, 8, 2, False),
        ("top_1", 5, 8, 1, False),
        ("all", 3, 4, 4, True),
        ("one_row", 1, 8, 2, True),
        ("odd", 3, 13, 3, True),
        ("empty", 0, 8, 2, True),
        ("strided", 4, 8, 2, True),
        ("large", 3, 8, 2, True),
    ):
        logits = torch.empty(rows, experts)
        for row in range(rows):
            order = draw.order(experts)
            logits[row] = 8192.0 + 64 * order if name == "large" else 0.25 * order
        args = {
            "logits": view_of(logits) if name == "strided" else logits,
            "top_k": top_k,
            "renormalize": renormalize,
        }
        yield Sample(
            id=name, args=args, call=OpCall(op="moe_route", dtype="", shape=(experts, top_k))
        )
    for name, scoring, bias, groups, scale in (
        ("sigmoid", "sigmoid", None, (1, 1, 1), 1.0),
        ("biased", "sigmoid", -draw.order(12) / 8, (1, 1, 1), 2.5),
        ("groups", "softmax", None, (4, 2, 1), 1.0),
        ("biased_groups", "sigmoid", draw.order(12) / 16, (3, 2, 2), 2.5),
    ):
        args = {
            "logits": torch.stack([0.25 * draw.order(12) for _ in range(5)]),
            "top_k": 3,
            "renormalize": True,
            "scoring": scoring,
            "bias": bias,
            **dict(zip(("num_groups", "top_groups", "group_top"), groups, strict=True)),
            "scale": scale,
        }
        call = OpCall(op="moe_route", dtype="", shape=(12, 3), statics=(("scoring", scoring),))
        yield Sample(id=name, args=args, call=call, float32_args=("bias",))


def moe_experts_samples() -> Iterator[Sample]:
    """``moe_experts``: experts without tokens, all tokens on one expert, both activations."""
    draw = Draw("moe_experts")
    for name, rows, experts, top_k, hidden, inner, activation in (
        ("typical", 6, 4, 2, 32, 24, "silu"),
        ("gelu", 6, 4, 2, 32, 24, "gelu"),
        ("clamped", 6, 4, 2, 32, 24, "swiglu_clamped"),
        ("biased", 6, 4, 2, 32, 24, "silu"),
        ("biased_clamped", 6, 4, 2, 32, 24, "swiglu_clamped"),
        ("one_row", 1, 4, 2, 32, 24, "silu"),
        ("odd", 3, 5, 3, 29, 23, "silu"),
        ("one_expert", 6, 4, 1, 32, 24, "silu"),
        ("empty", 0, 4, 2, 32, 24, "silu"),
        ("strided", 4, 4, 2, 32, 24, "silu"),
        ("large", 3, 4, 2, 32, 24, "silu"),
        ("long", 2, 2, 1, 16, LONG, "silu"),
    ):
        x = _rows(draw, name, rows, hidden)
        chosen = [draw.order(experts)[:top_k] for _ in range(rows)]
        ids = torch.stack(chosen) if chosen else torch.empty((0, top_k), dtype=torch.int64)
        if name == "one_expert":
            ids = torch.full_like(ids, 2)
        size = 1e-4 if name == "large" else hidden**-0.5
        gate_up = draw.normal(experts, 2 * inner, hidden, size=size)
        down = draw.normal(experts, hidden, inner, size=inner**-0.5)
        if name == "long":
            x = draw.uniform(rows, hidden, low=0.5, high=1.0)
            gate_up = torch.stack([_mean(draw, 2 * inner, hidden) for _ in range(experts)])
            down = draw.uniform(experts, hidden, inner, low=0.25, high=0.75)
        args = {
            "x": x,
            "weights": torch.softmax(draw.normal(rows, top_k), dim=-1),
            "experts": ids,
            "activation": activation,
            "gate_up": gate_up,
            "down": down,
        }
        if name.startswith("biased"):
            args["gate_up_bias"] = draw.normal(experts, 2 * inner, size=4.0)
            args["down_bias"] = draw.normal(experts, hidden)
        shape, statics = (experts, top_k, hidden, inner), (("activation", activation),)
        call = OpCall(op="moe_experts", dtype="", shape=shape, statics=statics)
        size = 10.0 if name == "large" else 4.0 if name.startswith("biased") else 1.0
        yield Sample(id=name, args=args, call=call, scale=size)


def _rows(draw: Draw, name: str, rows: int, features: int) -> Tensor:
    if name == "large":
        return draw.uniform(rows, features, low=-LARGE, high=LARGE)
    if name == "long":
        return draw.uniform(rows, features, low=0.5, high=1.5)
    x = draw.normal(rows, features)
    return view_of(x) if name == "strided" else x


def _weight(
    draw: Draw, out: int, features: int, *, bias: bool = False, size: float | None = None
) -> LinearWeight:
    """Weights that keep the size of their input, or of ``size`` times the square root of it."""
    weight = draw.normal(out, features, size=size or features**-0.5)
    return LinearWeight(out, features, {"weight": weight}, draw.normal(out) if bias else None)


def _positive(draw: Draw, out: int, features: int) -> LinearWeight:
    """Weights in (0.25, 0.75): partial sums grow, so a narrow accumulator loses its small terms."""
    return LinearWeight(out, features, {"weight": draw.uniform(out, features, low=0.25, high=0.75)})


def _mean(draw: Draw, out: int, features: int) -> Tensor:
    """Weights that average their input."""
    return draw.uniform(out, features, low=0.5, high=1.5) / features
