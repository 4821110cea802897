"""The fastest way to compute a product, found once by measuring and remembered.

Products differ in shape, type and number of rows; rows are counted in buckets. While the table is
open, at warm-up, an unknown product is measured with the tensors at hand; closed, it is computed
the default way. What was measured is kept in a file, by device and versions.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

ROW_BUCKETS = (1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 9216, 16384)

Run = Callable[..., Any]


def row_bucket(rows: int) -> int:
    """The bucket that ``rows`` fall into; the last one has no end."""
    for bucket in ROW_BUCKETS:
        if rows <= bucket:
            return bucket
    return ROW_BUCKETS[-1]


@dataclass(frozen=True, slots=True)
class Product:
    """One product, as it is told from others.

    Attributes:
        kind: ``"linear"``, ``"gated_silu"``, ``"gated_gelu"``, ``"add_norm"``.
        out_features, in_features: of the weight. dtype: name. rows: a bucket.
        bias: whether there is one.
    """

    kind: str
    out_features: int
    in_features: int
    dtype: str
    rows: int
    bias: bool = False

    def key(self) -> str:
        """As it is written into the file."""
        bias = "+bias" if self.bias else ""
        return f"{self.kind}{bias} {self.out_features}x{self.in_features} {self.dtype} {self.rows}"


Candidates = Callable[[Product], Mapping[str, Run]]
"""Ways to compute a product by name, the default one first; names are stable."""

Offered = Callable[[Product, tuple[Any, ...]], Mapping[str, Run]]
"""Further ways, that a library has for these arguments."""

Named = Callable[[Product, str], Run | None]
"""One of ``Offered`` by its name alone."""

Measure = Callable[[Mapping[str, Run], tuple[Any, ...]], Mapping[str, float]]
"""Seconds of each way that gave the default's result, for these arguments."""


class ChoiceTable:
    """Products to ways of computing them.

    Args:
        candidates: what there is. measure: times it.
        offered: more to time. named: finds a choice among these again.
        known: names by key, such as those shipped for a device; a file's come before them.
        file: where choices are kept; None: nowhere. identity: device and versions, its section.

    Attributes:
        num_measured: products measured by this table.
    """

    def __init__(
        self,
        candidates: Candidates,
        measure: Measure,
        *,
        offered: Offered = lambda product, arguments: {},
        named: Named = lambda product, name: None,
        known: Mapping[str, str] | None = None,
        file: Path | None = None,
        identity: str = "",
    ) -> None:
        self._candidates = candidates
        self._measure = measure
        self._offered = offered
        self._named = named
        self._file = file
        self._identity = identity
        self._names: dict[str, str] = {**(known or {}), **self._read().get(identity, {})}
        self._chosen: dict[Product, Run] = {}
        self._open = False
        self.num_measured = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """While inside, unknown products are measured; at the end the file is written."""
        before = self.num_measured
        self._open = True
        try:
            yield
        finally:
            self._open = False
            if self.num_measured > before:
                logger.info("measured %d products; remembered", self.num_measured - before)
                self._write()

    def find(self, product: Product, arguments: tuple[Any, ...]) -> Run:
        """How to compute ``product``; ``arguments`` serve to measure with."""
        found = self._chosen.get(product)
        if found is not None:
            return found
        ways = self._candidates(product)
        default = next(iter(ways))
        name = self._names.get(product.key(), "")
        way = ways.get(name) or self._named(product, name)
        if way is None:
            if not self._open:
                return ways[default]
            ways = {**ways, **self._offered(product, arguments)} if len(ways) > 1 else ways
            way = ways[self._measured(product, ways, arguments)]
        self._chosen[product] = way
        return way

    def choices(self) -> dict[str, str]:
        """Names by key, of everything known."""
        return dict(sorted(self._names.items()))

    def _measured(
        self, product: Product, ways: Mapping[str, Run], arguments: tuple[Any, ...]
    ) -> str:
        seconds = self._measure(ways, arguments) if len(ways) > 1 else {}
        name = min(seconds, key=lambda n: seconds[n]) if seconds else next(iter(ways))
        self.num_measured += 1
        self._names[product.key()] = name
        shown = ", ".join(f"{n} {1e6 * s:.1f}" for n, s in sorted(seconds.items(), key=_second)[:4])
        logger.debug("%s: %s (us: %s)", product.key(), name, shown)
        return name

    def _read(self) -> dict[str, dict[str, str]]:
        """The file's sections; a broken file is as good as none."""
        if self._file is None or not self._file.is_file():
            return {}
        try:
            sections = json.loads(self._file.read_text())
            return {str(k): {str(a): str(b) for a, b in v.items()} for k, v in sections.items()}
        except (OSError, ValueError, AttributeError) as error:
            logger.warning("%s is unreadable and will be written anew: %s", self._file, error)
            return {}

    def _write(self) -> None:
        if self._file is None:
            return
        sections = self._read() | {self._identity: self.choices()}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps(sections, indent=1))
            temporary.replace(self._file)
        except OSError as error:
            logger.warning("choices are not remembered: %s", error)


def _second(pair: tuple[str, float]) -> float:
    return pair[1]
