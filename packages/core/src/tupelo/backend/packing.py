"""A step's inputs as one packed array of int32, so that it is sent in one copy::

T tokens   input_ids | positions | token_rows | slot_mapping x G [ | token_types ]
R rows     slots | seq_lens
S samples  logits_rows | sample_slots | sample_positions
R + 1      cu_seqlens_q
D changes  delta_where x G | delta_pages x G, D for each group
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend.step import StepInputs
from tupelo.batch import LAST_TOKEN, NO_SLOT_MAPPING, Batch, PageDelta


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLayout:
    """Where each field of a step lies in the packed array.

    Attributes:
        tokens, rows, samples: sizes T, R and S. changes: of each page group, D.
        scratch_slot: of padding rows. max_pages: width of page tables.
        has_types: whether token types are sent.
    """

    tokens: int
    rows: int
    samples: int
    changes: tuple[int, ...]
    scratch_slot: int
    max_pages: int
    has_types: bool = False

    @classmethod
    def of(cls, batch: Batch, scratch_slot: int, max_pages: int) -> "StepLayout":
        """The sizes that a step has, padded to its bucket."""
        return cls(
            tokens=max(batch.bucket.tokens, batch.num_tokens),
            rows=max(batch.bucket.rows, batch.num_rows),
            samples=max(batch.bucket.rows, batch.num_samples),
            changes=tuple(len(delta.pages) for delta in batch.page_deltas),
            scratch_slot=scratch_slot,
            max_pages=max_pages,
            has_types=len(batch.token_types) > 0,
        )

    def sizes(self) -> dict[str, int]:
        """Numbers of each field, in order."""
        groups = range(len(self.changes))
        names = ("logits_rows", "sample_slots", "sample_positions")
        return {
            **dict.fromkeys(("input_ids", "positions", "token_rows"), self.tokens),
            **{f"slot_mapping_{g}": self.tokens for g in groups},
            **({"token_types": self.tokens} if self.has_types else {}),
            **dict.fromkeys(("slots", "seq_lens"), self.rows),
            **dict.fromkeys(names, self.samples),
            "cu_seqlens_q": self.rows + 1,
            **{f"delta_where_{g}": self.changes[g] for g in groups},
            **{f"delta_pages_{g}": self.changes[g] for g in groups},
        }

    def split(self, packed: Tensor) -> dict[str, Tensor]:
        """The fields of a packed array on the device, int32."""
        sizes = self.sizes()
        parts = torch.split(packed, list(sizes.values()))
        return dict(zip(sizes, parts, strict=True))

    def pack(self, batch: Batch) -> npt.NDArray[np.int32]:
        """A batch, padded. Padding rows name the scratch slot and store nothing; padding changes
        write page 0 at the end of the scratch slot's table.

        Page changes beyond ``changes`` are left out.
        """
        counts = np.diff(batch.cu_seqlens_q)
        fields: dict[str, tuple[npt.NDArray[Any], int]] = {
            "input_ids": (batch.input_ids, 0),
            "positions": (batch.positions, 0),
            "token_rows": (np.repeat(np.arange(batch.num_rows), counts), self.rows - 1),
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
            where, pages = self.page_changes(delta, 0, self.changes[group])
            fields[f"slot_mapping_{group}"] = (mapping, NO_SLOT_MAPPING)
            fields[f"delta_where_{group}"] = (where, 0)
            fields[f"delta_pages_{group}"] = (pages, 0)
        return self._joined(fields)

    def page_changes(
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

    def inputs(
        self,
        fields: Mapping[str, Tensor],
        host: Batch,
        last_tokens: Tensor,
        tables: Sequence[Tensor],
    ) -> StepInputs:
        """What ``split`` gave as the model takes it.

        Args:
            last_tokens: (num_slots + 1,) int64. tables: of each page group, with this step's
                changes.
        """
        given, rows = fields["input_ids"].long(), fields["token_rows"].long()
        slots = fields["slots"].long()
        groups = range(len(self.changes))
        return StepInputs(
            host=host,
            input_ids=torch.where(given == LAST_TOKEN, last_tokens[slots[rows]], given),
            positions=fields["positions"].long(),
            cu_seqlens_q=fields["cu_seqlens_q"],
            seq_lens=fields["seq_lens"],
            slots=slots,
            token_rows=rows,
            slot_mapping=tuple(fields[f"slot_mapping_{g}"].long() for g in groups),
            page_tables=tuple(tables),
            token_types=fields["token_types"].long() if self.has_types else None,
        )

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
