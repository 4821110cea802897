"""Which tokens of an output are those of its text, where thoughts and calls are parsed out of it.

Nothing tells a token's part but its text: rows are laid along the text, and what does not fit there
(thoughts, markers, calls) is left out. It does not matter in how many pieces the two come.
"""

from collections import deque
from collections.abc import Sequence

from tupelo_server.rows import Row


class TextRows:
    """The rows of one output's text, given out as the text is."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._bare: list[Row] = []
        self._num_seen = 0
        self._text, self._at = "", 0

    def push(self, rows: Sequence[Row]) -> None:
        """Add rows, in the order of their tokens."""
        self._rows += rows

    def take(self, text: str, num_thoughts: int, *, last: bool = False) -> list[Row]:
        """Rows that the text so far is sure to have, each once.

        Args:
            text: what is new of it.
            num_thoughts: so many tokens at the output's beginning are thoughts.
            last: this text ends here; another one may begin.
        """
        self._text, self._at = self._text[self._at :] + text, 0
        found: list[Row] = []
        while self._rows and self._at < len(self._text):
            row = self._rows[0]
            rest = len(self._text) - self._at
            if len(row.text) > rest and not last and row.text.startswith(self._text[self._at :]):
                break
            self._rows.popleft()
            self._num_seen += 1
            if self._num_seen <= num_thoughts or not row.shown:
                continue
            if not row.text:  # a part of a character, which the row of its last byte shows
                self._bare.append(row)
            elif self._text.startswith(row.text[:rest], self._at):
                found += [*self._bare, row]
                self._bare = []
                self._at += len(row.text)
            else:
                self._bare = []
        if last:
            self._text, self._at, self._bare = "", 0, []
        return found
