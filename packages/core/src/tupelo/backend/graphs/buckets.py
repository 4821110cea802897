"""The ladder of decode batch sizes, and a decode step's inputs as one packed array.

A captured graph reads its inputs from fixed memory. All of them lie in one buffer, so that a step
sends one copy; 64-bit fields come first, for alignment::

    int64   input_ids | positions | slots | sample_positions | slot_mapping x G | delta_where x G
    int32   seq_lens | delta_pages x G

Each field has ``rows`` elements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.batch import (
    LAST_TOKEN,
    NO_SLOT_MAPPING,
    Batch,
    Bucket,
    PageDelta,
    PrefixGroups,
)

FINE, COARSE, FINE_END = 8, 32, 256


def decode_ladder(max_rows: int) -> tuple[int, ...]:
    """Batch sizes to capture: 1, 2, 4, every 8 up to 256, then every 32; the last is at least
    ``max_rows``."""
    sizes = [n for n in (1, 2, 4) if n < max_rows]
    size = FINE
    while not sizes or sizes[-1] < max_rows:
        sizes.append(min(size, max_rows) if size <= FINE_END else size)
        size += FINE if size < FINE_END else COARSE
    return tuple(dict.fromkeys(sizes))


def grouped_ladder(max_rows: int) -> tuple[int, ...]:
    """Batch sizes to capture for steps with prefix groups: the coarse ones of ``decode_ladder``."""
    ladder = decode_ladder(max_rows)
    return tuple(n for n in ladder if n in (8, 16, ladder[-1]) or n % COARSE == 0)


def at_least(ladder: Sequence[int], wanted: int) -> int | None:
    """The smallest rung that holds ``wanted`` rows; None above the ladder."""
    index = int(np.searchsorted(np.asarray(ladder), wanted))
    return ladder[index] if index < len(ladder) else None


@dataclass(frozen=True, slots=True)
class DecodeLayout:
    """Where each field of a decode step of ``rows`` rows lies in the packed buffer.

    Attributes:
        rows: of the bucket. num_groups: page groups.
        wide: names of the int64 fields, in order. narrow: of the int32 fields.
    """

    rows: int
    num_groups: int
    wide: tuple[str, ...] = field(init=False)
    narrow: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        groups = range(self.num_groups)
        wide = (
            *("input_ids", "positions", "slots", "sample_positions"),
            *(f"slot_mapping_{g}" for g in groups),
            *(f"delta_where_{g}" for g in groups),
        )
        object.__setattr__(self, "wide", wide)
        narrow = ("seq_lens", *(f"delta_pages_{g}" for g in groups))
        object.__setattr__(self, "narrow", narrow)

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed buffer."""
        return self.rows * (8 * len(self.wide) + 4 * len(self.narrow))

    def device_fields(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views of the fields in a uint8 buffer of at least ``num_bytes``."""
        split = 8 * self.rows * len(self.wide)
        wide = buffer[:split].view(torch.int64).view(len(self.wide), self.rows)
        narrow = buffer[split : self.num_bytes].view(torch.int32).view(len(self.narrow), self.rows)
        return dict(zip((*self.wide, *self.narrow), (*wide, *narrow), strict=True))

    def host_fields(self, buffer: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """The same views of a host array."""
        split = 8 * self.rows * len(self.wide)
        wide = buffer[:split].view(np.int64).reshape(len(self.wide), self.rows)
        narrow = buffer[split : self.num_bytes].view(np.int32).reshape(len(self.narrow), self.rows)
        return dict(zip((*self.wide, *self.narrow), (*wide, *narrow), strict=True))

    def pack(
        self, batch: Batch, buffer: npt.NDArray[Any], scratch_slot: int, max_pages: int
    ) -> list[int]:
        """Write a decode step, padded to ``rows``, and return the number of page changes of each
        group.

        Padding rows name the scratch slot, have length 0 and store no K/V. Changes beyond ``rows``
        are not written: ``fits_deltas`` says whether there are any.
        """
        to = self.host_fields(buffer)
        n = batch.num_rows
        values: tuple[tuple[str, npt.NDArray[Any], int], ...] = (
            ("input_ids", batch.input_ids, 0),
            ("positions", batch.positions, 0),
            ("slots", batch.slots, scratch_slot),
            ("sample_positions", batch.seq_lens, 0),
            ("seq_lens", batch.seq_lens, 0),
            *(
                (f"slot_mapping_{g}", mapping, NO_SLOT_MAPPING)
                for g, mapping in enumerate(batch.slot_mapping)
            ),
        )
        for name, array, padding in values:
            to[name][:n] = array
            to[name][n:] = padding
        counts = []
        for group, delta in enumerate(batch.page_deltas):
            count = min(len(delta.pages), self.rows)
            where = delta.slots.astype(np.int64) * max_pages + delta.indices
            to[f"delta_where_{group}"][:count] = where[:count]
            to[f"delta_pages_{group}"][:count] = delta.pages[:count]
            counts.append(count)
        return counts

    def fits_deltas(self, deltas: Sequence[PageDelta]) -> bool:
        """Whether every page change has a place in the packed buffer."""
        return all(len(delta.pages) <= self.rows for delta in deltas)


def is_decode(batch: Batch) -> bool:
    """Whether a step holds decode rows alone, each sampling: what graphs hold."""
    rows = batch.num_rows
    return batch.num_decode_rows == rows == batch.num_tokens == batch.num_samples


def idle_batch(
    counts: Sequence[int],
    slot: int,
    num_groups: int,
    bucket: Bucket,
    *,
    before: int = 0,
    grouped: bool = False,
) -> Batch:
    """A step that changes nothing: rows of ``counts`` tokens in the scratch slot, storing no K/V.

    For warming up and capturing: it runs the kernels of a step of these sizes; with ``grouped``,
    those of a step with prefix groups, though it has none. Rows come after ``before`` tokens.
    """
    sizes = np.array(counts, np.int32)
    ends = np.cumsum(sizes, dtype=np.int32)
    total = int(ends[-1])
    empty = np.empty(0, np.int32)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in sizes.tolist()])
    return Batch(
        step=0,
        slots=np.full(len(sizes), slot, np.int32),
        num_decode_rows=int((sizes == 1).sum()),
        cu_seqlens_q=np.concatenate(([0], ends)).astype(np.int32),
        seq_lens=sizes + np.int32(before),
        input_ids=np.full(total, LAST_TOKEN if total == len(sizes) else 0, np.int32),
        positions=positions + np.int32(before),
        slot_mapping=tuple(np.full(total, NO_SLOT_MAPPING, np.int32) for _ in range(num_groups)),
        page_deltas=tuple(PageDelta(empty, empty, empty) for _ in range(num_groups)),
        logits_rows=ends - 1,
        sample_rows=np.arange(len(sizes), dtype=np.int32),
        bucket=bucket,
        prefix_groups=PrefixGroups(np.zeros(1, np.int32), empty) if grouped else None,
    )
