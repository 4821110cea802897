"""Every encoder of the registry against transformers: vectors, classes of texts and of tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.pooled import ENCODER, ENCODER_FIELDS, LABELS, Sentence, make, prompts
from transformers import PreTrainedModel

from tupelo.checkpoint import ENCODERS
from tupelo.engine import Engine
from tupelo.errors import ContextLengthExceeded, InvalidRequest

TOLERANCE = 1e-4
LENGTHS = (90, 2, 17, 40, 1)
"""Inputs: well beyond the windows, and a single token."""

STEMS = [name.removesuffix("Model") for name in ENCODERS]


def engine(folder: Path, **options: Any) -> Engine:
    settings: dict[str, Any] = {"chunked_prefill_size": 64, "check_integrity": True}
    return Engine(model=str(folder), dtype="float32", **(settings | options))


def vectors(folder: Path, ids: Sequence[Sequence[int]], **options: Any) -> list[np.ndarray]:
    with engine(folder) as running:
        replies = running.encode(input_ids=ids, **options)
        assert running.stats()["pages_total"] == []
    return [np.array(reply["embedding"]) for reply in replies]


@torch.inference_mode()
def hidden(model: PreTrainedModel, ids: Sequence[int]) -> torch.Tensor:
    states: torch.Tensor = model(torch.tensor([ids])).last_hidden_state
    return states[0]


def close(got: np.ndarray, want: torch.Tensor) -> None:
    assert want.std() > 0.02, "values too small for the tolerance to mean anything"
    np.testing.assert_allclose(got, want.numpy(), atol=TOLERANCE, rtol=0)


def test_every_encoder_has_its_sizes_here() -> None:
    assert set(STEMS) == set(ENCODER_FIELDS)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens"])
def test_vectors(stem: str, pooling: str, tmp_path: Path) -> None:
    reference = make(f"{stem}Model", ENCODER | ENCODER_FIELDS[stem], tmp_path)
    Sentence(pooling).write(tmp_path, ENCODER["hidden_size"])
    ids = prompts(LENGTHS)
    for got, one in zip(vectors(tmp_path, ids), ids, strict=True):
        states = hidden(reference, one)
        want = states[0] if pooling == "cls_token" else states.mean(0)
        close(got, want / want.norm())


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_classes_of_texts(stem: str, num_labels: int, tmp_path: Path) -> None:
    labels = dict(list(LABELS.items())[:num_labels])
    fields = {**ENCODER, **ENCODER_FIELDS[stem], "id2label": labels}
    reference = make(f"{stem}ForSequenceClassification", fields, tmp_path)
    ids = prompts(LENGTHS)
    with engine(tmp_path) as running:
        info = running.info.pooling
        assert info is not None
        assert info.labels == tuple(labels.values())
        assert info.activation == ("sigmoid" if num_labels == 1 else "softmax")
        replies = running.encode(input_ids=ids)
    for reply, one in zip(replies, ids, strict=True):
        with torch.inference_mode():
            want = reference(torch.tensor([one])).logits[0]
        np.testing.assert_allclose(reply["embedding"], want.numpy(), atol=TOLERANCE, rtol=0)
    spread = np.array([reply["embedding"] for reply in replies]).std(0)
    assert (spread > 0.01).all(), "all inputs look alike"


@pytest.mark.parametrize("stem", STEMS)
def test_classes_of_tokens(stem: str, tmp_path: Path) -> None:
    fields = {**ENCODER, **ENCODER_FIELDS[stem], "id2label": LABELS}
    reference = make(f"{stem}ForTokenClassification", fields, tmp_path)
    ids = prompts(LENGTHS)
    for got, one in zip(vectors(tmp_path, ids), ids, strict=True):
        assert got.shape == (len(one), 3)
        with torch.inference_mode():
            close(got, reference(torch.tensor([one])).logits[0])


def test_dense_modules_and_truncation(tmp_path: Path) -> None:
    reference = make("BertModel", ENCODER | ENCODER_FIELDS["Bert"], tmp_path)
    sentence = Sentence("mean_tokens", dense=((96, "Tanh"), (32, "Identity")), max_length=70)
    layers = sentence.write(tmp_path, ENCODER["hidden_size"])
    ids = prompts((50, 9))
    expected = []
    for one in ids:
        want = hidden(reference, one).mean(0)
        want = torch.tanh(layers[0][0] @ want + layers[0][1])
        expected.append(layers[1][0] @ want + layers[1][1])
    with engine(tmp_path) as running:
        assert running.info.context_length == 70
        whole = running.encode(input_ids=ids)
        plain = running.encode(input_ids=ids, normalize=False)
        cut = running.encode(input_ids=ids, dimensions=12)
        with pytest.raises(InvalidRequest, match="dimensions"):
            running.encode(input_ids=ids, dimensions=33)
        with pytest.raises(ContextLengthExceeded):
            running.encode(input_ids=prompts((71,)))
    for index, want in enumerate(expected):
        close(np.array(plain[index]["embedding"]), want)
        close(np.array(whole[index]["embedding"]), want / want.norm())
        close(np.array(cut[index]["embedding"]), want[:12] / want[:12].norm())


def test_a_vector_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    make("BertModel", ENCODER | ENCODER_FIELDS["Bert"], tmp_path)
    Sentence("mean_tokens").write(tmp_path, ENCODER["hidden_size"])
    ids = prompts((30, 5, 61, 8, 100))
    with engine(tmp_path, max_running_requests=3) as running:
        together = running.encode(input_ids=ids)
        for one, reply in zip(ids, together, strict=True):
            assert running.encode(input_ids=one)["embedding"] == reply["embedding"]
        assert running.stats()["num_running"] == 0


def test_other_outputs_beside_the_vector(tmp_path: Path) -> None:
    """Words' weights and a vector a token, as BGE-M3 has them in files of their own."""
    from safetensors.torch import save_file

    reference = make("XLMRobertaModel", ENCODER | ENCODER_FIELDS["XLMRoberta"], tmp_path)
    Sentence("cls_token").write(tmp_path, ENCODER["hidden_size"])
    generator = torch.Generator().manual_seed(1)
    sparse, colbert = (torch.randn(n, 64, generator=generator) * 0.2 for n in (1, 48))
    for name, weight in (("sparse", sparse), ("colbert", colbert)):
        tensors = {"weight": weight, "bias": torch.ones(len(weight))}
        save_file(tensors, tmp_path / f"{name}_linear.safetensors")
    ids = prompts((20, 7))
    ids[0][3] = ids[0][12]
    with engine(tmp_path) as running:
        words = running.encode(input_ids=ids, output="sparse")
        many = running.encode(input_ids=ids, output="colbert")
        dense = running.encode(input_ids=ids)
        with pytest.raises(InvalidRequest, match="no such output"):
            running.encode(input_ids=ids, output="lexical")
    for weights, vectors_, vector, one in zip(words, many, dense, ids, strict=True):
        states = hidden(reference, one)
        close(np.array(vector["embedding"]), states[0] / states[0].norm())
        wanted: dict[str, float] = {}
        for token, weight in zip(one, torch.relu(states @ sparse.T + 1)[:, 0], strict=True):
            if weight > 0:
                wanted[str(token)] = max(float(weight), wanted.get(str(token), 0.0))
        assert weights["lexical_weights"] == pytest.approx(wanted, abs=TOLERANCE)
        late = states[1:] @ colbert.T + 1
        close(np.array(vectors_["colbert_vecs"]), late / late.norm(dim=1, keepdim=True))


def test_a_pickled_output_is_refused_by_name(tmp_path: Path) -> None:
    make("XLMRobertaModel", ENCODER | ENCODER_FIELDS["XLMRoberta"], tmp_path)
    (tmp_path / "sparse_linear.pt").write_bytes(b"a pickle")
    with engine(tmp_path) as running:
        running.encode(input_ids=prompts((5,)))
        with pytest.raises(InvalidRequest, match=r"sparse_linear\.pt is pickled"):
            running.encode(input_ids=prompts((5,)), output="sparse")


def test_names_of_other_origins(tmp_path: Path) -> None:
    """A checkpoint saved below a masked-language head, with the oldest names of norms."""
    from safetensors.torch import load_file, save_file

    reference = make("BertForMaskedLM", ENCODER | ENCODER_FIELDS["Bert"], tmp_path)
    file = tmp_path / "model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in load_file(file).items()
    }
    assert any(name.startswith("bert.") and name.endswith(".gamma") for name in old)
    save_file(old, file, metadata={"format": "pt"})
    ids = prompts((11,))
    got = vectors(tmp_path, ids, normalize=False)[0]
    close(got, hidden(reference.bert, ids[0])[0])
