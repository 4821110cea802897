"""all-MiniLM-L6-v2, real weights: the vectors that its authors' pipeline makes, from texts on."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tupelo.engine import Engine
from tupelo.errors import ContextLengthExceeded

TOLERANCE = 1e-5

TEXTS = (
    "This is an example sentence",
    "Each sentence is converted",
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The cheetah is running behind its prey.",
    "",
    "Ünïcödé, 日本語 und ein 🦊",
    "UPPER CASE is made lower case",
    "unbelievablyhyperextraordinarilylongish words fall apart",
    "The quick brown fox jumps over the lazy dog. " * 12,
)


@pytest.fixture(scope="module")
def expected(minilm: Path) -> np.ndarray:
    """transformers, with the mean of all tokens and the length of 1 that modules.json asks for."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    vectors = []
    for text in TEXTS:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        vectors.append(torch.nn.functional.normalize(states.mean(0), dim=0))
    return torch.stack(vectors).numpy()


def test_vectors_of_texts(minilm: Path, expected: np.ndarray) -> None:
    with Engine(model=str(minilm), dtype="float32") as engine:
        assert engine.info.context_length == 256, "what sentence-transformers cuts to"
        replies = engine.encode(list(TEXTS))
        with pytest.raises(ContextLengthExceeded):
            engine.encode("word " * 300)
    got = np.array([reply["embedding"] for reply in replies])
    np.testing.assert_allclose(got, expected, atol=TOLERANCE, rtol=0)
    alike = got @ got.T
    assert alike[2, 3] > 0.7 > 0.3 > alike[2, 4], "bread is food, a cheetah is not"
