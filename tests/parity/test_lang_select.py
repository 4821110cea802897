"""What ``select`` finds of given texts: the numbers of transformers' logits, by each method."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

import tupelo as tp
from tupelo.lang import EngineBackend

TOLERANCE = 1e-4
"""Mean log-probabilities in float32, summed in another order over 30 layers."""

PROMPT = "The largest city of the United States is"
CHOICES = [" New York City", " New Delhi", " Los Angeles", " New York"]


@pytest.fixture(scope="module")
def backend(demo_gguf: Path) -> Iterator[EngineBackend]:
    """The engine in float32."""
    with tp.Engine(model=str(demo_gguf), dtype="float32", batch_invariant=True) as engine:
        backend = EngineBackend(engine)
        yield backend
        backend.close()


@pytest.fixture(scope="module")
def encoded(demo_gguf: Path) -> tuple[list[int], list[list[int]]]:
    """transformers' ids of the prompt, and of what each choice adds to it."""
    tokenizer = AutoTokenizer.from_pretrained(demo_gguf.parent, gguf_file=demo_gguf.name)
    prompt = tokenizer(PROMPT).input_ids
    whole = [tokenizer(PROMPT + choice).input_ids for choice in CHOICES]
    assert all(ids[: len(prompt)] == prompt for ids in whole)  # so the seam is at its end
    return prompt, [ids[len(prompt) :] for ids in whole]


def _logprobs(model: PreTrainedModel, before: list[int], ids: list[int]) -> list[float]:
    """Log-probability of each of ``ids``, given all before it; 0 for a token that opens a text."""
    with torch.inference_mode():
        table = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    first = len(before)
    return [
        float(table[first + place - 1, token]) if first + place else 0.0
        for place, token in enumerate(ids)
    ]


def _selected(backend: EngineBackend, method: Any) -> tuple[str, dict[str, Any]]:
    @tp.function
    def city(s: Any) -> None:
        s += PROMPT + tp.select("city", CHOICES, choices_method=method)

    state = city.run(backend=backend)
    return state["city"], state.get_meta_info("city")


def test_scores_are_those_of_transformers(
    backend: EngineBackend,
    smollm2: PreTrainedModel,
    encoded: tuple[list[int], list[list[int]]],
) -> None:
    prompt, tails = encoded
    given = [_logprobs(smollm2, prompt, ids) for ids in tails]
    alone = [_logprobs(smollm2, [], ids) for ids in tails]
    means = [sum(values) / len(values) for values in given]
    gains = [sum(a) / len(a) - sum(b) / len(b) for a, b in zip(given, alone, strict=True)]
    for method, expected in (
        (tp.token_length_normalized, means),
        (tp.unconditional_likelihood_normalized, gains),
    ):
        choice, meta = _selected(backend, method)
        assert meta["token_ids"] == tails
        assert meta["scores"] == pytest.approx(expected, abs=TOLERANCE)
        assert choice == CHOICES[expected.index(max(expected))]


def test_greedy_selection_walks_down_transformers_logits(
    backend: EngineBackend,
    smollm2: PreTrainedModel,
    encoded: tuple[list[int], list[list[int]]],
) -> None:
    """Word by word: of " New" and " Los" first, then of what may come behind that."""
    prompt, tails = encoded
    given = [_logprobs(smollm2, prompt, ids) for ids in tails]
    choice, meta = _selected(backend, tp.greedy_token_selection)
    for found, expected in zip(meta["logprobs"], given, strict=True):
        assert found == pytest.approx(expected, abs=TOLERANCE)
    first = {ids[0]: values[0] for ids, values in zip(tails, given, strict=True)}
    best = max(first, key=lambda token: first[token])
    left = [index for index, ids in enumerate(tails) if ids[0] == best]
    second = {tails[index][1]: given[index][1] for index in left}
    best = max(second, key=lambda token: second[token])
    left = [index for index in left if tails[index][1] == best]
    # " New York" ends here: its mean stands against what " City" is worth.
    ends = {i: given[i][2] if len(tails[i]) > 2 else sum(given[i]) / 2 for i in left}
    assert choice == CHOICES[max(ends, key=lambda index: ends[index])]
    assert len(left) == 2
