"""Which program reads which part of which shared prefix: a work list for a fixed grid.

A group's rows are cut into tiles, its keys into splits; an item is one of each. The list has room
for any step of its number of rows, so it can be refilled where a captured graph reads it::

    header     number of items
    items      room x (first row, rows, first key, end of keys, part of the first row)
    rows       rows x (shared tokens, first part, distance of its parts, number of parts)

A part is what one row has seen of one split: every row of a group has as many parts as the group
has splits.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tupelo.backend.runtime import Runtime
from tupelo.batch import PrefixGroups

HEADER, ITEM, ROW = 4, 5, 4
"""Integers of the header, of an item and of a row."""

SPLIT_MULTIPLE = 64
"""Splits end at a multiple of this: a whole number of any kernel's tiles."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class WorkSize:
    """What a work list is for.

    Attributes:
        num_rows: decode rows, padded. num_kv_heads: programs serve one each.
        tile_rows: rows of one program. programs: that fill the device.
        min_keys: no split is shorter, unless its prefix is.
    """

    num_rows: int
    num_kv_heads: int
    tile_rows: int
    programs: int
    min_keys: int

    @property
    def _added(self) -> int:
        """Bound of the tiles that splitting adds."""
        return -(-self.programs // self.num_kv_heads)

    @property
    def max_items(self) -> int:
        """Room in the list: tiles are no more than rows."""
        return self.num_rows + self._added

    @property
    def max_parts(self) -> int:
        """Parts of all rows together."""
        return self.num_rows + self.tile_rows * self._added

    @property
    def num_ints(self) -> int:
        """Of the whole list."""
        return HEADER + ITEM * self.max_items + ROW * self.num_rows


@dataclass(slots=True)
class SharedWork:
    """A work list on the device: ``ints`` (size.num_ints,) int32, and what it was made for."""

    size: WorkSize
    ints: Tensor
    groups: PrefixGroups | None

    @property
    def rows(self) -> Tensor:
        """The list's end, (num_rows * ROW,)."""
        return self.ints[HEADER + ITEM * self.size.max_items :]


class SharedParts(NamedTuple):
    """What rows have seen of their groups' prefixes.

    Attributes:
        rows: of the work list: which parts are whose.
        outs: (max_parts, num_heads, head_dim) float32, each normalised.
        lses: (max_parts, num_heads) float32, log2 of the sums of exponentials.
    """

    rows: Tensor
    outs: Tensor
    lses: Tensor


def make_work(size: WorkSize, groups: PrefixGroups | None, runtime: Runtime) -> SharedWork:
    """A list for these groups; None gives an empty one."""
    return SharedWork(size, runtime.to_device(list_work(size, groups)), groups)


def refill_work(work: SharedWork, groups: PrefixGroups | None, runtime: Runtime) -> None:
    """Put other groups into a list, in stream order; costs nothing where they are the same."""
    if groups is not work.groups:
        work.ints.copy_(runtime.to_device(list_work(work.size, groups)))
        work.groups = groups


def list_work(size: WorkSize, groups: PrefixGroups | None) -> npt.NDArray[np.int32]:
    """(size.num_ints,) the list as the kernels read it."""
    packed = np.zeros(size.num_ints, np.int32)
    if groups is None or not groups.num_groups:
        return packed
    starts, keys = groups.row_starts.astype(np.int64), groups.shared_tokens.astype(np.int64)
    rows = np.diff(starts)
    tiles = -(-rows // size.tile_rows)
    split_keys = _split_keys(size, tiles, keys)
    splits = -(-keys // split_keys)
    parts = np.cumsum(rows * splits) - rows * splits
    items = _items(size, (starts[:-1], rows, tiles, keys, split_keys, splits, parts))
    assert len(items) <= size.max_items
    packed[0] = len(items)
    packed[HEADER : HEADER + items.size] = items.ravel()
    each = np.repeat(np.arange(len(rows)), rows)
    inside = np.arange(len(each)) - starts[each]
    columns = (keys[each], parts[each] + inside, rows[each], splits[each])
    begin = HEADER + ITEM * size.max_items
    packed[begin : begin + ROW * len(each)] = np.stack(columns, axis=1).ravel()
    return packed


def _split_keys(size: WorkSize, tiles: Ints, keys: Ints) -> Ints:
    """Keys of a split of each group, so that all programs together have about as much to do.

    Splits are evened out: ``splits - 1 <= keys / wanted - 1/2``, so all groups' splits beyond the
    first add up to no more than ``programs / num_kv_heads`` tiles.
    """
    total = int((tiles * keys).sum()) * size.num_kv_heads
    wanted = max(size.min_keys, total / size.programs)
    splits = np.maximum(1, (keys / wanted + 0.5).astype(np.int64))
    even = -(-keys // splits)
    return -(-even // SPLIT_MULTIPLE) * SPLIT_MULTIPLE


def _items(size: WorkSize, columns: tuple[Ints, ...]) -> Ints:
    """(num_items, ITEM), group by group, the tiles of a split together."""
    counts = columns[2] * columns[5]
    each = np.repeat(np.arange(len(counts)), counts)
    index = np.arange(len(each)) - (np.cumsum(counts) - counts)[each]
    starts, rows, tiles, keys, split_keys, _, parts = (column[each] for column in columns)
    split, tile = np.divmod(index, tiles)
    skipped = tile * size.tile_rows
    return np.stack(
        (
            starts + skipped,
            np.minimum(size.tile_rows, rows - skipped),
            split * split_keys,
            np.minimum(keys, (split + 1) * split_keys),
            parts + split * rows + skipped,
        ),
        axis=1,
    )
