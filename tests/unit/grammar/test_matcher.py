"""A request's place in its grammar: beginning late, ending, failing, and automata that are full."""

import numpy as np
import pytest
from tests.unit.grammar.walks import Walker

from tupelo.grammar.matcher import Matcher, SharedGrammar

EXPLODING = r"(\w|b)*[a-k](\w|b){300}\d"
"""Its automaton has to remember where each a to k stood, so it has no end of states."""


def accept(walker: Walker, matcher: Matcher, text: str) -> None:
    for token in walker.spell(text):
        matcher.accept(token)


def test_it_ends_where_nothing_can_follow(walker: Walker) -> None:
    matcher = walker.shared("regex", "ab?").matcher()
    accept(walker, matcher, "a")
    assert not matcher.ended
    assert set(walker.vocabulary.eos_ids) < set(walker.allowed(matcher))
    accept(walker, matcher, "b")
    assert matcher.ended
    assert not matcher.error


def test_an_end_token_ends_it(walker: Walker) -> None:
    matcher = walker.shared("regex", "a*").matcher()
    matcher.accept(walker.vocabulary.eos_ids[0])
    assert matcher.ended
    assert not matcher.error


def test_special_and_padding_ids_are_never_allowed(walker: Walker) -> None:
    vocabulary = walker.vocabulary
    allowed = set(walker.allowed(walker.shared("regex", r"(?s:.)*").matcher()).tolist())
    assert allowed & set(vocabulary.special_ids) == set(vocabulary.eos_ids)
    assert not [i for i in allowed - set(vocabulary.eos_ids) if not vocabulary.tokens[i]]
    assert len(allowed) > 40_000


def test_ends_are_held_back_while_anything_else_can_come(walker: Walker) -> None:
    matcher = walker.shared("regex", "a*b?").matcher(ignore_eos=True)
    ends = set(walker.vocabulary.eos_ids)
    assert not ends & set(walker.allowed(matcher))
    accept(walker, matcher, "ab")
    assert matcher.ended


def test_it_begins_after_the_ids_that_open_it(walker: Walker) -> None:
    opening = walker.spell("</think>")
    matcher = walker.shared("regex", "[0-9]{2}").matcher(after=opening)
    accept(walker, matcher, "some <thought> </thinking> and </thi</think")
    assert matcher.passive
    assert len(walker.allowed(matcher)) >= len(walker.vocabulary.tokens), "everything goes"
    assert matcher.forced() == []
    accept(walker, matcher, ">")
    assert not matcher.passive
    texts = {walker.vocabulary.tokens[i] for i in walker.allowed(matcher)}
    assert texts <= {b"%d" % i for i in range(10)} | {b"%02d" % i for i in range(100)}
    accept(walker, matcher, "42")
    assert matcher.ended


def test_forced_tokens_are_those_of_the_tokenizer(walker: Walker) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    matcher = walker.shared("regex", f"{text}[.!]").matcher()
    forced = matcher.forced()
    assert len(forced) >= 8
    canonical = walker.vocabulary.encode(text + ".")
    assert forced == canonical[: len(forced)]
    for token in forced:
        matcher.accept(token)
    assert not matcher.error
    assert matcher.forced() == []


def test_a_token_that_does_not_fit_is_an_error_and_stays_one(walker: Walker) -> None:
    matcher = walker.shared("regex", "[0-9]{3}").matcher()
    accept(walker, matcher, "x")
    assert "\n" not in matcher.error
    assert matcher.error
    assert matcher.forced() == []


def test_a_request_that_fills_the_automaton_fails_alone(walker: Walker) -> None:
    """Copies share an automaton; who meets it full goes on with one of its own."""
    shared = walker.shared("regex", EXPLODING)
    patient = shared.matcher()
    accept(walker, patient, "abc")
    greedy = shared.matcher()
    for text in ("abcdefghijk", "kjihgfedcba", "xaybzckdgejfhig"):
        if not greedy.error:
            accept(walker, greedy, text * 3)
            mask = walker.allowed(greedy) if not greedy.error else None
            assert mask is None or len(mask)
    for step in range(400):
        if greedy.error:
            break
        choices = walker.allowed(greedy)
        if greedy.error:
            break
        greedy.accept(int(choices[(step * 7919) % len(choices)]))
    assert greedy.error, "it was meant to fail"
    assert len(walker.allowed(patient))
    assert not patient.error
    accept(walker, patient, "d")
    assert not patient.error
    assert shared.worn, "nobody shall begin with a full automaton"


def test_an_automaton_of_ones_own_is_found_once(walker: Walker) -> None:
    shared = walker.shared("regex", "[0-9]{3}")
    one, _ = shared.matcher(), shared.matcher()
    assert one.rebuild()
    accept(walker, one, "12")
    assert not one.error
    assert not one.rebuild()


def test_a_grammar_that_slows_down_with_every_token_is_stopped(
    walker: Walker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tupelo.grammar.matcher.MAX_SLOW_S", 0.02)
    source = 'start: a\na: a a | "x" | ""\n'  # each x can stand in many places at once
    shared = SharedGrammar(walker.backend, source, walker.backend.compile(source), 0.0)
    matcher = shared.matcher()
    token = walker.vocabulary.tokens.index(b"x")
    for _ in range(3000):
        matcher.accept(token)
        if matcher.error:
            break
    assert "slower" in matcher.error


@pytest.mark.parametrize("rows", [1, 5])
def test_rows_of_a_step_are_filled_together(walker: Walker, rows: int) -> None:
    shared = walker.shared("regex", "[a-c]{1,20}")
    matchers = [shared.matcher() for _ in range(rows)]
    for number, matcher in enumerate(matchers):
        accept(walker, matcher, "abc" * number)
    mask = np.full((rows + 2, walker.num_words), -1, np.int32)
    walker.filler.fill([(m, i + 1) for i, m in enumerate(matchers)], mask)
    assert (mask[0] == -1).all()
    assert (mask[-1] == -1).all()
    for number, matcher in enumerate(matchers):
        bits = np.unpackbits(mask[number + 1].view(np.uint8), bitorder="little")
        assert np.flatnonzero(bits).tolist() == walker.allowed(matcher).tolist()
