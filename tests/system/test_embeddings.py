"""An embedding model served: OpenAI's client and the other routes, against the authors' numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from tests.system.harness import ServerProcess
from transformers import AutoModel, AutoTokenizer

TEXTS = ["A man is eating food.", "", "日本語 and a fox 🦊", "The quick brown fox. " * 20]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def embedder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """all-MiniLM-L6-v2, recognised by its files."""
    flags = ["--check-integrity", "--dtype", "float32", "--enable-metrics"]
    with ServerProcess(minilm, tmp_path_factory.mktemp("embedder"), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def expected(minilm: Path) -> np.ndarray:
    """(num_texts, 384): transformers' hidden states, averaged and normalised."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    model = AutoModel.from_pretrained(minilm, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in TEXTS
        ]
    return torch.nn.functional.normalize(torch.stack(states), dim=1).numpy()


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_the_openai_client(embedder: ServerProcess, expected: np.ndarray, encoding: Any) -> None:
    """Without an encoding the client asks for base64 and decodes it by itself."""
    options = {} if encoding is None else {"encoding_format": encoding}
    reply = embedder.openai.embeddings.create(model="any", input=TEXTS, **options)
    assert [item.index for item in reply.data] == list(range(len(TEXTS)))
    vectors = [item.embedding for item in reply.data]
    if encoding == "base64":
        import base64

        vectors = [np.frombuffer(base64.b64decode(v), "<f4") for v in vectors]
    np.testing.assert_allclose(np.array(vectors), expected, atol=TOLERANCE, rtol=0)


def test_ollamas_routes(embedder: ServerProcess, expected: np.ndarray) -> None:
    body = {"model": "any", "input": TEXTS}
    reply = httpx.post(f"{embedder.url}/api/embed", json=body).json()
    np.testing.assert_allclose(np.array(reply["embeddings"]), expected, atol=TOLERANCE, rtol=0)
    long = {"model": "any", "input": "word " * 400}
    assert httpx.post(f"{embedder.url}/api/embed", json=long).json()["prompt_eval_count"] <= 512
    refused = httpx.post(f"{embedder.url}/api/embed", json={**long, "truncate": False})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_usage_ids_and_dimensions(embedder: ServerProcess, expected: np.ndarray) -> None:
    client = embedder.openai
    body = {"prompt": TEXTS[0]}
    ids = httpx.post(f"{embedder.url}/tokenize", json=body).json()["tokens"]
    by_text = client.embeddings.create(model="any", input=TEXTS[0], dimensions=64)
    by_ids = client.embeddings.create(model="any", input=ids, dimensions=64)
    assert by_text.usage.prompt_tokens == by_text.usage.total_tokens == len(ids)
    assert by_text.data[0].embedding == by_ids.data[0].embedding
    cut = expected[0, :64] / np.linalg.norm(expected[0, :64])
    np.testing.assert_allclose(by_text.data[0].embedding, cut, atol=TOLERANCE, rtol=0)


def test_long_texts_are_refused_or_cut(embedder: ServerProcess) -> None:
    client = embedder.openai
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="any", input="word " * 400)
    assert caught.value.code == "context_length_exceeded"
    cut = client.embeddings.create(
        model="any", input="word " * 400, extra_body={"truncate_prompt_tokens": -1}
    )
    assert cut.usage.prompt_tokens == 256


def test_many_at_once_in_their_order(embedder: ServerProcess) -> None:
    texts = [f"number {i} " + "and more " * (i % 40) for i in range(200)]
    many = embedder.openai.embeddings.create(model="any", input=texts)
    assert many.data[137].index == 137
    alone = embedder.openai.embeddings.create(model="any", input=texts[137])
    np.testing.assert_allclose(
        many.data[137].embedding, alone.data[0].embedding, atol=TOLERANCE, rtol=0
    )


def test_the_native_route(embedder: ServerProcess, expected: np.ndarray) -> None:
    one = httpx.post(f"{embedder.url}/encode", json={"text": TEXTS[0]}).json()
    np.testing.assert_allclose(one["embedding"], expected[0], atol=TOLERANCE, rtol=0)
    several = httpx.post(f"{embedder.url}/encode", json={"text": TEXTS, "rid": list("abcd")}).json()
    assert [item["meta_info"]["id"] for item in several] == list("abcd")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/generate", {"text": "hello"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/v1/classify", {"input": "a"}),
        ("/classify", {"text": "a"}),
    ],
)
def test_what_it_does_not_do_is_refused(
    embedder: ServerProcess, route: str, body: dict[str, Any]
) -> None:
    reply = httpx.post(f"{embedder.url}{route}", json={"model": "any", **body} if "v1" in route
                       else body)  # fmt: skip
    assert reply.status_code == 400
    assert "this model" in str(reply.json()["error"])


def test_a_generator_makes_no_vectors(server: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="generates text"):
        server.openai.embeddings.create(model="any", input="hello")


def test_the_server_knows_what_it_serves(embedder: ServerProcess) -> None:
    def get(path: str) -> Any:
        reply = httpx.get(f"{embedder.url}{path}", timeout=30)
        assert reply.status_code == 200, (path, reply.text)
        return reply

    for path in ("/health", "/ready", "/health_generate", "/v1/models", "/v1/loads"):
        get(path)
    assert get("/model_info").json()["is_generation"] is False
    info = get("/server_info").json()
    assert info["architecture"] == "BertModel"
    assert info["pooling"]["tasks"] == ["embed"]
    assert info["num_pages"] == []
    before = embedder.metrics()
    embedder.openai.embeddings.create(model="any", input=["one", "two"])
    after = embedder.metrics()
    grown = {name for name in after if after[name] > before.get(name, 0.0)}
    assert any(name.endswith("prompt_tokens_total") for name in grown)
    assert any(name.endswith("num_requests_total") for name in grown)
    assert httpx.post(f"{embedder.url}/flush_cache").status_code == 200
