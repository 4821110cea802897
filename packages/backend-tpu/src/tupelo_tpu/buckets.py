"""The closed set of sizes that steps are padded to, and a step's inputs as one packed array.

XLA compiles a program for each size, so there are few: decode steps at powers of two of rows,
steps with prompts at powers of two of tokens, with room for every slot. All integers of a step are
one int32 array, so that it is sent in one copy::

    T tokens   input_ids | positions | token_rows | slot_mapping x G
    R rows     slots | seq_lens | logits_rows | sample_slots | sample_positions
    R + 1      cu_seqlens_q
    D changes  delta_where x G | delta_pages x G
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.batch import NO_SLOT_MAPPING, Batch, Bucket, PageDelta

SMALLEST_ROWS, SMALLEST_TOKENS = 8, 16

MORE_CHANGES = 256
"""Page changes that are sent at once where a step brings more than usual."""


def ladder(smallest: int, largest: int) -> tuple[int, ...]:
    """``smallest`` and its doubles, until one holds ``largest``."""
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def at_least(sizes: Sequence[int], wanted: int) -> int:
    """The smallest of ``sizes`` that holds ``wanted``; beyond the last one, its doubles."""
    for size in sizes:
        if size >= wanted:
            return size
    return ladder(sizes[-1], wanted)[-1]


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes of one runner.

    Attributes:
        rows: of decode steps; the last holds every slot.
        tokens: of steps with prompts, which are padded to ``rows[-1]`` rows.
    """

    rows: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, num_slots: int, max_tokens: int) -> "Buckets":
        """For so many slots, and so many prompt tokens a step beside a decode row in each."""
        return cls(
            ladder(SMALLEST_ROWS, num_slots), ladder(SMALLEST_TOKENS, max_tokens + num_slots)
        )

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        """The padded sizes of a step."""
        if num_tokens == num_rows:
            rows = at_least(self.rows, num_rows)
            return Bucket(rows, rows)
        return Bucket(at_least(self.tokens, num_tokens), at_least(self.rows[-1:], num_rows))

    def all(self) -> tuple[Bucket, ...]:
        """Every bucket, the largest first."""
        most = self.rows[-1]
        prompts = [Bucket(tokens, most) for tokens in reversed(self.tokens)]
        return tuple(dict.fromkeys([*prompts, *(Bucket(n, n) for n in reversed(self.rows))]))


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where each field of a step lies in the packed array.

    Attributes:
        bucket: sizes T and R. num_groups: page groups, G. page_size: tokens a page.
        scratch_slot: of padding rows. max_pages: width of page tables.
        has_types: whether token types are sent, T more numbers.
    """

    bucket: Bucket
    num_groups: int
    page_size: int
    scratch_slot: int
    max_pages: int
    has_types: bool = False

    @property
    def num_deltas(self) -> int:
        """Page changes of a group that fit: each row opens at most one page more than it fills."""
        return self.bucket.rows + self.bucket.tokens // self.page_size

    def sizes(self) -> dict[str, int]:
        """Numbers of each field, in order."""
        tokens, rows, groups = self.bucket.tokens, self.bucket.rows, range(self.num_groups)
        names = ("slots", "seq_lens", "logits_rows", "sample_slots", "sample_positions")
        return {
            **dict.fromkeys(("input_ids", "positions", "token_rows"), tokens),
            **{f"slot_mapping_{g}": tokens for g in groups},
            **({"token_types": tokens} if self.has_types else {}),
            **dict.fromkeys(names, rows),
            "cu_seqlens_q": rows + 1,
            **{f"delta_where_{g}": self.num_deltas for g in groups},
            **{f"delta_pages_{g}": self.num_deltas for g in groups},
        }

    def split(self, packed: Tensor) -> dict[str, Tensor]:
        """The fields of a packed array on the device, int32."""
        sizes = self.sizes()
        parts = torch.split(packed, list(sizes.values()))
        return dict(zip(sizes, parts, strict=True))

    def pack(self, batch: Batch) -> npt.NDArray[np.int32]:
        """A batch, padded. Padding rows name the scratch slot and store nothing; padding changes
        write page 0 at the end of the scratch slot's table.

        Page changes beyond ``num_deltas`` are left out: see ``excess``.
        """
        last_row = self.bucket.rows - 1
        counts = np.diff(batch.cu_seqlens_q)
        fields: dict[str, tuple[npt.NDArray[Any], int]] = {
            "input_ids": (batch.input_ids, 0),
            "positions": (batch.positions, 0),
            "token_rows": (np.repeat(np.arange(batch.num_rows), counts), last_row),
            "slots": (batch.slots, self.scratch_slot),
            "seq_lens": (batch.seq_lens, 0),
            "logits_rows": (batch.logits_rows, 0),
            "sample_slots": (batch.slots[batch.sample_rows], self.scratch_slot),
            "sample_positions": (batch.seq_lens[batch.sample_rows], 0),
            "cu_seqlens_q": (batch.cu_seqlens_q, batch.num_tokens),
            "token_types": (batch.token_types, 0),
        }
        for group, (mapping, delta) in enumerate(
            zip(batch.slot_mapping, batch.page_deltas, strict=True)
        ):
            where, pages = self.changes(delta, 0, self.num_deltas)
            fields[f"slot_mapping_{group}"] = (mapping, NO_SLOT_MAPPING)
            fields[f"delta_where_{group}"] = (where, 0)
            fields[f"delta_pages_{group}"] = (pages, 0)
        return self._joined(fields)

    def changes(
        self, delta: PageDelta, start: int, count: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """``count`` changes of a group from ``start`` on, padded: places in the flat table, and
        pages."""
        part = slice(start, start + count)
        where = delta.slots[part].astype(np.int32) * self.max_pages + delta.indices[part]
        nowhere = (self.scratch_slot + 1) * self.max_pages - 1
        missing = (0, count - len(where))
        padded = np.pad(where, missing, constant_values=nowhere)
        return padded, np.pad(delta.pages[part], missing)

    def excess(self, batch: Batch) -> list[tuple[int, int]]:
        """Group and place of the first of each ``MORE_CHANGES`` changes that ``pack`` leaves out:
        cached prefixes bring many pages at once."""
        return [
            (group, start)
            for group, delta in enumerate(batch.page_deltas)
            for start in range(self.num_deltas, len(delta.pages), MORE_CHANGES)
        ]

    def _joined(self, fields: Mapping[str, tuple[npt.NDArray[Any], int]]) -> npt.NDArray[np.int32]:
        sizes = self.sizes()
        packed = np.empty(sum(sizes.values()), np.int32)
        end = 0
        for name, size in sizes.items():
            array, padding = fields[name]
            start, end = end, end + size
            packed[start : start + len(array)] = array
            packed[start + len(array) : end] = padding
        return packed
