"""Which steps served the requests that are traced: few marks each, however many steps."""

from tupelo.engine.messages import StepMark
from tupelo.scheduler import Entry, Phase, Step

MAX_MARKS = 64
"""Of one request. When there are more, neighbours of one kind become one mark."""


class StepLog:
    """Takes note of steps as they land. Used by the engine's thread alone.

    Attributes:
        on: whether a traced request has ever come; until then there is nothing to do.
    """

    def __init__(self) -> None:
        self.on = False
        self._marks: dict[str, list[StepMark]] = {}

    def note(self, step: Step, begin_s: float, end_s: float) -> None:
        """A step has landed, and its result has not been taken in.

        Args:
            begin_s, end_s: of the step, on the clock of ``Entry.arrived_s``.
        """
        batch = step.batch
        num_decode = batch.num_decode_rows
        bounds = batch.cu_seqlens_q
        sampling = {id(row.entry) for row in step.rows[num_decode:]}
        for row in step.rows[:num_decode]:
            if _counts(row.entry, row.epoch):
                self._add(row.entry, batch.step, begin_s, end_s, 0, 1, batch.num_rows)
        for index, row in enumerate(step.chunks, num_decode):
            if _counts(row.entry, row.epoch):
                length = int(bounds[index + 1] - bounds[index])
                tokens = int(id(row.entry) in sampling)
                self._add(row.entry, batch.step, begin_s, end_s, length, tokens, batch.num_rows)

    def take(self, entry: Entry) -> list[StepMark]:
        """The marks of a request that ends."""
        return self._marks.pop(entry.rid, [])

    def _add(
        self,
        entry: Entry,
        number: int,
        begin_s: float,
        end_s: float,
        prompt_tokens: int,
        tokens: int,
        rows: int,
    ) -> None:
        marks = self._marks.setdefault(entry.rid, [])
        end_s -= entry.arrived_s
        begin_s = min(max(begin_s - entry.arrived_s, marks[-1].end_s if marks else 0.0), end_s)
        marks.append(StepMark(number, 1, begin_s, end_s, prompt_tokens, tokens, rows))
        if len(marks) > MAX_MARKS:
            marks[:] = _fewer(marks)


def _counts(entry: Entry, epoch: int) -> bool:
    """Whether a row's result will be the request's; see ``Entry.epoch``."""
    return entry.request.traced and entry.phase is not Phase.FINISHED and entry.epoch == epoch


def _fewer(marks: list[StepMark]) -> list[StepMark]:
    """Pairs of neighbours as one; of unlike kind only if there are too many otherwise."""
    for mixed in (False, True):
        found: list[StepMark] = []
        fresh = False  # whether the last one may still take another
        for mark in marks:
            if fresh and (mixed or bool(found[-1].prompt_tokens) == bool(mark.prompt_tokens)):
                found[-1], fresh = _joined(found[-1], mark), False
            else:
                found.append(mark)
                fresh = True
        if len(found) < MAX_MARKS:
            break
    return found


def _joined(one: StepMark, two: StepMark) -> StepMark:
    return StepMark(
        one.first,
        one.count + two.count,
        one.begin_s,
        two.end_s,
        one.prompt_tokens + two.prompt_tokens,
        one.tokens + two.tokens,
        max(one.rows, two.rows),
    )
