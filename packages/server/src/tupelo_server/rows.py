"""Tokens with their log-probabilities, given out no sooner than their text."""

from collections import deque
from dataclasses import dataclass, replace

from tupelo.engine.messages import Scores
from tupelo.text.output import TokenPiece, TokenPieces

LOWEST_LOGPROB = -9999.0
"""What an impossible token shows; JSON has no infinity."""


@dataclass(frozen=True, slots=True)
class Row:
    """A token with its log-probability.

    Attributes:
        logprob: None for a prompt's first token.
        text, raw: its piece of the text, and its bytes (see ``TokenPiece``); cut where the text is.
        shown: whether it is part of the text: no stop token, nothing behind a stop string.
        top: the most probable tokens there, best first, as (id, logprob).
        wanted: log-probabilities of the ids that the request names, in its order.
    """

    token_id: int
    logprob: float | None
    text: str
    raw: bytes
    shown: bool = True
    top: tuple[tuple[int, float], ...] = ()
    wanted: tuple[float, ...] = ()


class RowQueue:
    """Rows that wait until their text has been given out, so that no list of tokens tells more."""

    def __init__(self, pieces: TokenPieces) -> None:
        self._pieces = pieces
        self._waiting: deque[tuple[int, Row]] = deque()

    def push(self, ids: list[int], scores: Scores, num_shown: int) -> None:
        """Add tokens, of which the first ``num_shown`` are text."""
        pieces = self._pieces.push(ids[:num_shown])
        end = pieces[-1].offset + len(pieces[-1].text) if pieces else 0
        pieces += [TokenPiece("", b"", end)] * (len(ids) - num_shown)
        for number, (piece, row) in enumerate(
            zip(pieces, rows_of(ids, pieces, scores), strict=True)
        ):
            self._waiting.append(
                (piece.offset, row if number < num_shown else replace(row, shown=False))
            )

    def take(self, num_chars: int, *, last: bool) -> list[Row]:
        """Rows within the first ``num_chars`` characters; with ``last`` all, cut to those."""
        rows = []
        while self._waiting:
            offset, row = self._waiting[0]
            over = offset + len(row.text) - num_chars
            if over > 0 and not last:
                break
            self._waiting.popleft()
            if over > 0 and row.shown:
                text = row.text[: max(len(row.text) - over, 0)]
                row = replace(row, text=text, raw=text.encode(), shown=bool(text))
            rows.append(row)
        return rows


def rows_of(
    ids: list[int] | tuple[int, ...], pieces: list[TokenPiece], scores: Scores
) -> list[Row]:
    """A row for each of ``ids``, all of them shown."""
    rows = []
    for number, (token_id, piece) in enumerate(zip(ids, pieces, strict=True)):
        logprob = scores.logprobs[number]
        top = scores.top[number] if scores.top else ()
        wanted = scores.wanted[number] if scores.wanted else ()
        rows.append(
            Row(
                token_id,
                None if logprob is None else max(logprob, LOWEST_LOGPROB),
                piece.text,
                piece.raw,
                top=tuple((i, max(value, LOWEST_LOGPROB)) for i, value in top),
                wanted=tuple(max(value, LOWEST_LOGPROB) for value in wanted),
            )
        )
    return rows
