"""Products with weights: a vendor's libraries and the portable kernels, the fastest of them for
each shape and number of rows.

Signatures and results of ``ProductOps`` are those of the ops of the same name in
``tupelo.ops.linear``. In float32, and where nothing was measured, the first library computes.
"""

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.triton.activation import ACTIVATIONS, MLP_ACTIVATIONS
from tupelo.triton.choices import ChoiceTable, Product, Run, row_bucket
from tupelo.triton.gemv import add_norm_gemv
from tupelo.triton.linear import run_linear
from tupelo.triton.linear_config import MAX_ROWS, PORTABLE_SHARED_BYTES, LinearConfig, configs
from tupelo.triton.norm import add_rms_norm, rms_norm

logger = logging.getLogger(__name__)

MIN_ELEMENTS = 1 << 20
"""Smaller weights are read in no time: only the launch counts, and nothing is tried."""

FLUSH_BYTES = 256 << 20
"""Written before each timed run: more than any cache, and long enough to hide the launch."""

MANY_ROWS = 1024
"""Products of at least so many rows are bound by arithmetic."""

REPEATS = 9
MAX_DIFFERENCE = 2e-2
"""Of a candidate from the default, relative to the largest output: more is a wrong kernel."""

Library = Callable[[Tensor, LinearWeight], Tensor]
"""``linear`` by a library."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Launches:
    """Which of the portable kernels' launches are tried.

    Attributes:
        shared_bytes: shared memory of one program.
        max_tile: elements of the weight in one step of a program, where there are several rows.
        preferred: (block_n, block_k, num_stages, splits) of launches of several rows to try before
            others.
        most: launches to try for a product: each is compiled once, for a second.
    """

    shared_bytes: int = PORTABLE_SHARED_BYTES
    max_tile: int = 1 << 30
    preferred: tuple[tuple[int, int, int, int], ...] = ()
    most: int = 5

    def of(self, product: Product) -> list[LinearConfig]:
        """Those for a product of few rows."""
        shape, gated = (product.out_features, product.in_features), "gated" in product.kind
        found = configs(shape, product.rows, gated=gated, shared_bytes=self.shared_bytes)
        largest = self.max_tile // (2 if gated else 1)
        fitting = [c for c in found if product.rows == 1 or c.block_n * c.block_k <= largest]
        return sorted(fitting, key=self._place)[: self.most]

    def _place(self, config: LinearConfig) -> int:
        """Its place in ``preferred``; others keep their order, after those."""
        tried = (config.block_n, config.block_k, config.num_stages, config.splits)
        return self.preferred.index(tried) if tried in self.preferred else len(self.preferred)


class ProductOps:
    """The ops as methods over one table of choices."""

    def __init__(self, table: ChoiceTable) -> None:
        self._table = table

    def linear(self, x: Tensor, weight: LinearWeight) -> Tensor:
        """As ``tupelo.ops.linear.linear``."""
        product: Tensor = self._run("linear", x, weight, (x, weight))
        return product

    def add_norm_linear(
        self,
        x: Tensor,
        residual: Tensor | None,
        norm_weight: Tensor,
        eps: float,
        weight: LinearWeight,
    ) -> tuple[Tensor, Tensor]:
        """As ``tupelo.ops.linear.add_norm_linear``: one launch for one row, if that is faster."""
        if residual is None:
            return self.linear(rms_norm(x, norm_weight, eps), weight), x
        if x.shape[0] == 1:
            arguments = (x, residual, norm_weight, eps, weight)
            both: tuple[Tensor, Tensor] = self._run("add_norm", x, weight, arguments)
            return both
        normed, total = add_rms_norm(x, residual, norm_weight, eps)
        return self.linear(normed, weight), total

    def gated_mlp(
        self, x: Tensor, activation: str, gate_up: LinearWeight, down: LinearWeight
    ) -> Tensor:
        """As ``tupelo.ops.linear.gated_mlp``."""
        if x.shape[0] > MAX_ROWS:
            hidden = ACTIVATIONS[activation](self.linear(x, gate_up))
        else:
            hidden = self._run(f"gated_{activation}", x, gate_up, (x, gate_up))
        return self.linear(hidden, down)

    def mlp(self, x: Tensor, activation: str, up: LinearWeight, down: LinearWeight) -> Tensor:
        """As ``tupelo.ops.linear.mlp``."""
        return self.linear(MLP_ACTIVATIONS[activation](self.linear(x, up)), down)

    def _run(self, kind: str, x: Tensor, weight: LinearWeight, arguments: tuple[Any, ...]) -> Any:
        product = Product(
            kind,
            weight.out_features,
            weight.in_features,
            str(x.dtype).removeprefix("torch."),
            row_bucket(x.shape[0]),
            weight.bias is not None,
        )
        return self._table.find(product, arguments)(*arguments)


def ways(product: Product, libraries: Mapping[str, Library], launches: Launches) -> dict[str, Run]:
    """Ways to compute a product, the first library's first; it is the only one where there is no
    choice to make."""
    activation = product.kind.removeprefix("gated_") if product.kind.startswith("gated") else ""
    if activation:
        found: dict[str, Run] = {
            name: partial(_then_gate, run, activation) for name, run in libraries.items()
        }
    elif product.kind == "add_norm":
        found = {name: partial(_norm_then, run) for name, run in libraries.items()}
    else:
        found = dict(libraries)
    if product.dtype == "float32" or product.out_features * product.in_features < MIN_ELEMENTS:
        name, way = next(iter(found.items()))
        return {name: way}
    if product.rows <= MAX_ROWS:
        for config in launches.of(product):
            name = "triton_" + "_".join(map(str, astuple(config)))
            if product.kind == "add_norm":
                found[name] = partial(add_norm_gemv, config=config)
            else:
                found[name] = partial(_triton, config, activation)
    return found


def measure(found: Mapping[str, Run], arguments: tuple[Any, ...]) -> dict[str, float]:
    """Median seconds of each way; wrong and failing ones are left out.

    Ways take turns, so that all meet the same clock rate. Few rows are timed with cold caches, as
    weights are when a step comes to them. Many are timed one right after another: what they need is
    power, and the fastest of a cool device isn't that of a hot one.
    """
    able = _able(found, arguments)
    many = arguments[0].shape[0] >= MANY_ROWS
    size = 1 if many else FLUSH_BYTES
    flush = torch.empty(size, dtype=torch.uint8, device=arguments[0].device)
    times: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(REPEATS):
        for name, run in able.items():
            times[name].append(_time_s(run, arguments, flush))
    return {name: statistics.median(taken) for name, taken in times.items()}


def refuse(name: str, reason: str) -> None:
    """Say that a way is not used."""
    logger.warning("%s is not used: %s", name, reason)


def _able(found: Mapping[str, Run], arguments: tuple[Any, ...]) -> dict[str, Run]:
    """The ways that give the default's result."""
    want: Tensor | None = None
    able = {}
    for name, run in found.items():
        try:
            got = _first(run(*arguments))
        except Exception as error:  # one launch does not fit this device: the others remain
            if want is None:
                raise
            refuse(name, f"{type(error).__name__}: {error}")
            continue
        if want is None:
            want = got
        if _differs(got, want):
            refuse(name, "its result is wrong")
            continue
        able[name] = run
    return able


def _first(result: Any) -> Tensor:
    tensor: Tensor = result[0] if isinstance(result, tuple) else result
    return tensor


def _differs(got: Tensor, want: Tensor) -> bool:
    largest = want.float().abs().max()
    return not bool((got.float() - want.float()).abs().max() <= MAX_DIFFERENCE * largest)


def _time_s(run: Run, arguments: tuple[Any, ...], flush: Tensor) -> float:
    module: Any = torch.get_device_module(flush.device)
    begin, end = (module.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    begin.record()
    run(*arguments)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _triton(config: LinearConfig, activation: str, x: Tensor, weight: LinearWeight) -> Tensor:
    return run_linear(x, weight, config, activation)


def _then_gate(product: Library, activation: str, x: Tensor, weight: LinearWeight) -> Tensor:
    return ACTIVATIONS[activation](product(x, weight))


def _norm_then(
    product: Library,
    x: Tensor,
    residual: Tensor,
    norm_weight: Tensor,
    eps: float,
    weight: LinearWeight,
) -> tuple[Tensor, Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return product(normed, weight), total
