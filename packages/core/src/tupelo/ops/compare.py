"""Comparing what a kernel returned with what the op is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tupelo.ops.spec import Tolerance


class Differs(AssertionError):
    """Outputs are not those of the op; the message names the worst element."""


EXACT = Tolerance(absolute=0.0, relative=0.0, reason="ids and copies are exact")


def outputs_of(value: object) -> tuple[Tensor, ...]:
    """An op's outputs as a tuple of tensors."""
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if not isinstance(part, Tensor):
            raise Differs(f"an output is {type(part).__name__}, not a tensor")
    return parts


def compare(
    got: Sequence[Tensor],
    want: Sequence[Tensor],
    tolerances: Sequence[Tolerance],
    scale: float = 1.0,
) -> tuple[float, float]:
    """Check outputs against the reference's.

    Args:
        got: on any device. want: on the host, same shapes.
        tolerances: one for all outputs, or one for each.
        scale: multiplies the absolute tolerances.

    Returns:
        The largest absolute error, and the largest share of the tolerance that an element used.

    Raises:
        Differs: names the worst element.
    """
    if len(got) != len(want):
        raise Differs(f"{len(got)} outputs; the op has {len(want)}")
    limits = list(tolerances) * (len(want) if len(tolerances) == 1 else 1)
    worst, share = 0.0, 0.0
    for index, (g, w, limit) in enumerate(zip(got, want, limits, strict=True)):
        error, used = _compare_one(index, g, w, limit, scale)
        worst, share = max(worst, error), max(share, used)
    return worst, share


def _compare_one(
    index: int, got: Tensor, want: Tensor, limit: Tolerance, scale: float
) -> tuple[float, float]:
    if got.shape != want.shape:
        raise Differs(f"output {index} is {tuple(got.shape)}; the op's is {tuple(want.shape)}")
    if got.is_floating_point() != want.is_floating_point():
        raise Differs(f"output {index} is {got.dtype}; the op's is {want.dtype}")
    if not want.numel():
        return 0.0, 0.0
    g, w = got.detach().cpu().double(), want.double()
    difference = torch.where(g == w, 0.0, (g - w).abs())
    difference = torch.nan_to_num(difference, nan=torch.inf, posinf=torch.inf)
    allowed = limit.absolute * scale + limit.relative * torch.nan_to_num(w.abs(), posinf=0.0)
    over = torch.where(difference == 0, 0.0, difference / allowed)  # x / 0 is infinity: too much
    place = int(over.argmax())
    error, share = float(difference.max()), float(over.max())
    if not share <= 1.0:
        where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), want.shape))
        raise Differs(
            f"output {index} at {where}: got {float(g.flatten()[place]):.6g}, want "
            f"{float(w.flatten()[place]):.6g}; {int((over > 1).sum())} of {want.numel()} elements "
            f"are off by more than {limit.absolute * scale:.3g} + {limit.relative:.3g} x |want| "
            f"({limit.reason})"
        )
    return error, share
