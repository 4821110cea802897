"""Ragged lists of pages, as FlashInfer reads them: arithmetic on host lengths.

::

    lens     20     5     33          page_size 16
    pages    2      1     3
    indptr   [0,    2,    3,    6]
    last     4      5     1           tokens of each row's last page
"""

from typing import NamedTuple

import numpy as np

from tupelo.batch import IntArray


class Ragged(NamedTuple):
    """Page lists of some rows.

    Attributes:
        lens: (n,) int32 K/V lengths, at least 1.
        indptr: (n + 1,) int32 offsets of each row's pages.
        last: (n,) int32 tokens of each row's last page, 1 to page_size.
    """

    lens: IntArray
    indptr: IntArray
    last: IntArray

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(self.lens)

    @property
    def max_pages(self) -> int:
        """Pages of the longest row."""
        return int(np.diff(self.indptr).max(initial=0))


def ragged(seq_lens: IntArray, page_size: int) -> Ragged:
    """Page lists of rows of these lengths."""
    indptr = np.zeros(len(seq_lens) + 1, np.int32)
    np.cumsum((seq_lens + page_size - 1) // page_size, out=indptr[1:])
    return Ragged(seq_lens, indptr, (seq_lens - 1) % np.int32(page_size) + 1)
