"""A cross-encoder served: pairs of texts, framed and told apart as transformers does."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.system.harness import ServerProcess
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

QUERY = "which animal is lazy"
DOCUMENTS = ["the quick brown fox", "a dog lies in the sun all day", "", "stock prices fell " * 60]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    """A seeded model of one class, with the tokenizer of MiniLM, in the folder of its name."""
    folder = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(5)
    config = BertConfig(
        hidden_size=64, intermediate_size=96, num_attention_heads=4, num_hidden_layers=2,
        max_position_embeddings=128, num_labels=1, initializer_range=0.3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(minilm / name, folder)
    model.name_or_path = str(folder)
    return model


@pytest.fixture(scope="module")
def reranker(
    reference: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The model, recognised by its architecture."""
    flags = ["--check-integrity", "--dtype", "float32"]
    log = tmp_path_factory.mktemp("reranker")
    with ServerProcess(reference.name_or_path, log, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def logits(reference: PreTrainedModel) -> list[float]:
    """What transformers gives for each document, the long one cut."""
    tokenizer = AutoTokenizer.from_pretrained(reference.name_or_path)
    found = []
    for document in DOCUMENTS:
        # As lists: an empty text alone counts as none there.
        pair = tokenizer([QUERY], [document], return_tensors="pt", truncation=True, max_length=128)
        with torch.inference_mode():
            found.append(float(reference(**pair).logits))
    assert max(found) - min(found) > 0.1
    return found


def post(server: ServerProcess, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{route}", json=body, timeout=60)


def test_rerank(reranker: ServerProcess, logits: list[float]) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "truncate_prompt_tokens": -1}
    found = post(reranker, "/v1/rerank", **body).json()
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    assert [item["index"] for item in found] == order
    assert [item["document"] for item in found] == [DOCUMENTS[i] for i in order]
    wanted = [float(torch.sigmoid(torch.tensor(logits[i]))) for i in order]
    assert [item["score"] for item in found] == pytest.approx(wanted, abs=TOLERANCE)
    best = post(reranker, "/v1/rerank", **body, top_n=1, return_documents=False).json()
    assert [(item["index"], item["document"]) for item in best] == [(order[0], None)]
    refused = post(reranker, "/v1/rerank", query=QUERY, documents=DOCUMENTS)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_pairs_on_the_native_route(reranker: ServerProcess, logits: list[float]) -> None:
    """The head's own number, as SGLang's ``is_cross_encoder_request`` gives it."""
    pairs = [[QUERY, document] for document in DOCUMENTS[:3]]
    found = post(reranker, "/encode", text=pairs, is_cross_encoder_request=True).json()
    numbers = [item["embedding"][0] for item in found]
    assert numbers == pytest.approx(logits[:3], abs=TOLERANCE)


def test_scores_of_pairs(reranker: ServerProcess, logits: list[float]) -> None:
    reply = post(reranker, "/v1/score", model="any", query=QUERY, items=DOCUMENTS[:3]).json()
    wanted = [float(torch.sigmoid(torch.tensor(value))) for value in logits[:3]]
    assert [row[0] for row in reply["scores"]] == pytest.approx(wanted, abs=TOLERANCE)


def test_classes_of_single_texts(reranker: ServerProcess, reference: PreTrainedModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(reference.name_or_path)
    with torch.inference_mode():
        want = float(reference(**tokenizer(QUERY, return_tensors="pt")).logits)
    native = post(reranker, "/classify", text=QUERY).json()
    assert native["embedding"] == pytest.approx([want], abs=TOLERANCE)
    found = post(reranker, "/v1/classify", model="any", input=[QUERY]).json()["data"][0]
    assert found["label"] == "LABEL_0"
    assert found["probs"] == pytest.approx([1 / (1 + 2.718281828459045**-want)], abs=TOLERANCE)


def test_it_embeds_nothing(reranker: ServerProcess) -> None:
    reply = post(reranker, "/v1/embeddings", model="any", input="a")
    assert reply.status_code == 400
    assert "classify and rank; it makes no embeddings" in reply.json()["error"]["message"]
