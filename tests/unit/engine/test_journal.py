"""Steps are written down while somebody looks, and for a while after."""

from tupelo.engine.journal import KEPT_STEPS, LOOKED_S, StepJournal


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_kept_unless_somebody_looks() -> None:
    watch = Watch()
    journal = StepJournal(watch)
    journal.note(1, 99.0, 99.5, (1, 0))
    assert journal.look(0) == []
    journal.note(2, 100.0, 100.5, (3, 40))
    (note,) = journal.look(0)
    assert note == (2, 100.0, 0.5, 3, 40)
    assert journal.look(2) == []
    watch.now += LOOKED_S
    journal.note(3, watch.now, watch.now + 0.1, (1, 0))
    assert journal.look(0) == [], "what came before a long pause is gone too"


def test_it_keeps_the_last_steps() -> None:
    watch = Watch()
    journal = StepJournal(watch)
    journal.look(0)
    for number in range(1, KEPT_STEPS + 11):
        journal.note(number, 100.0, 100.1, (1, 0))
    notes = journal.look(0)
    assert (notes[0].number, len(notes)) == (11, KEPT_STEPS)
