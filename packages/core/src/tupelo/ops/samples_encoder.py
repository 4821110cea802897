"""Samples of the ops that encoders have and plain decoders lack: layer norms, the ungated MLP."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from tupelo.ops.samples import LARGE, LONG, Draw, view_of
from tupelo.ops.samples_elementwise import EPS
from tupelo.ops.spec import OpCall, Sample
from tupelo.ops.weight import LinearWeight


def layer_norm_samples() -> Iterator[Sample]:
    """``layer_norm``: with and without bias, means far from 0, rows of one value."""
    for name, x, rest in _normed(Draw("layer_norm")):
        yield Sample(id=name, args={"x": x, **rest}, call=_call("layer_norm", x.shape[1]))


def add_layer_norm_samples() -> Iterator[Sample]:
    """``add_layer_norm``: as ``layer_norm``, the residual strided where ``x`` is."""
    draw = Draw("add_layer_norm")
    for name, x, rest in _normed(draw):
        residual = draw.normal(*x.shape, size=0.0 if name == "constant" else 1.0)
        if name == "strided":
            residual = view_of(residual)
        yield Sample(
            id=name,
            args={"x": x, "residual": residual, **rest},
            call=_call("add_layer_norm", x.shape[1]),
            scale=LARGE if name == "large" else 1.0,
        )


def mlp_samples() -> Iterator[Sample]:
    """``mlp``: every activation; ``exact_gelu`` where its tanh approximation is furthest off."""
    draw = Draw("mlp")
    for name, rows, hidden, inner, activation in (
        ("typical", 5, 64, 48, "gelu_erf"),
        ("tanh", 5, 64, 48, "gelu_tanh"),
        ("relu", 5, 64, 48, "relu"),
        ("gated", 5, 64, 48, "gelu_erf_mul"),
        ("exact_gelu", 5, 16, 48, "gelu_erf"),
        ("one_row", 1, 64, 48, "gelu_erf"),
        ("rows_17", 17, 32, 48, "gelu_erf"),
        ("odd", 3, 53, 77, "gelu_erf"),
        ("empty", 0, 64, 48, "gelu_erf"),
        ("strided", 4, 64, 48, "gelu_erf"),
        ("large", 3, 64, 48, "gelu_erf"),
        ("long", 2, 16, LONG, "gelu_erf"),
    ):
        x = draw.normal(rows, hidden)
        width = 2 * inner if activation.endswith("_mul") else inner
        up = _weight(draw, width, hidden, hidden**-0.5)
        down = _weight(draw, hidden, inner, inner**-0.5)
        if name == "strided":
            x = view_of(x)
        if name == "large":
            x = draw.uniform(rows, hidden, low=-LARGE, high=LARGE)
            up = _weight(draw, inner, hidden, 1e-4)
        if name == "exact_gelu":  # all before the activation is near -2.75, and is averaged after
            x = draw.uniform(rows, hidden, low=-2.9, high=-2.6)
            up, down = (_average(draw, *shape) for shape in ((inner, hidden), (hidden, inner)))
        if name == "long":
            x = draw.uniform(rows, hidden, low=0.5, high=1.0)
            up = _average(draw, inner, hidden)
            down = LinearWeight(
                hidden, inner, {"weight": draw.uniform(hidden, inner, low=0.25, high=0.75)}
            )
        args = {"x": x, "activation": activation, "up": up, "down": down}
        statics = (("activation", activation),)
        call = OpCall(op="mlp", dtype="", shape=(hidden, inner), statics=statics)
        yield Sample(id=name, args=args, call=call, scale=10.0 if name == "large" else 1.0)


def _normed(draw: Draw) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """Name, hidden states, and the norm's weight, bias and epsilon."""
    for name, x in (
        ("typical", draw.normal(5, 64)),
        ("no_bias", draw.normal(5, 64)),
        ("mean_of_3", draw.normal(5, 64) + 3.0),
        ("one_row", draw.normal(1, 64)),
        ("odd", draw.normal(3, 77)),
        ("empty", draw.normal(0, 64)),
        ("strided", view_of(draw.normal(4, 64))),
        ("large", draw.uniform(3, 64, low=-LARGE, high=LARGE)),
        ("constant", draw.normal(3, 1).expand(3, 64).contiguous()),
        ("long", draw.normal(2, LONG) + 0.5),
    ):
        size = x.shape[-1]
        bias = None if name == "no_bias" else draw.normal(size, size=0.3)
        yield name, x, {"weight": draw.weight(size), "bias": bias, "eps": EPS}


def _call(op: str, size: int) -> OpCall:
    return OpCall(op=op, dtype="", shape=(size,))


def _weight(draw: Draw, out: int, features: int, size: float) -> LinearWeight:
    weight = draw.normal(out, features, size=size)
    return LinearWeight(out, features, {"weight": weight}, draw.normal(out, size=0.1))


def _average(draw: Draw, out: int, features: int) -> LinearWeight:
    weight = draw.uniform(out, features, low=0.9, high=1.1) / features
    return LinearWeight(out, features, {"weight": weight})
