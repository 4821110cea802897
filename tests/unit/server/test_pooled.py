"""Routes that end in numbers: embeddings, ranking, classes and scores, and what they refuse."""

import base64
import math
from typing import Any

import httpx
import numpy as np
import pytest
from tests.unit.server.conftest import Service, Start
from tests.unit.server.fake_pooler import FakePooler, numbers

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "ab"},
    "/v1/classify": {"input": "ab"},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/encode": {"text": "ab"},
    "/classify": {"text": "ab"},
}


class World:
    """A server over a model that pools."""

    def __init__(self, start: Start, kind: str) -> None:
        self.service = start()
        assert self.service.state.frontend is not None
        self.pooler = FakePooler(kind, self.service.engine.tokenizer)
        self.service.state.frontend.pooler = self.pooler

    def post(self, path: str, **body: Any) -> Any:
        reply = self.service.post(path, **body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def ids(self, text: str) -> list[int]:
        return self.service.engine.tokenizer.encode(text)


@pytest.fixture
def world(start: Start, request: pytest.FixtureRequest) -> World:
    return World(start, request.param)


def kind(*names: str) -> Any:
    return pytest.mark.parametrize("world", names, indirect=True)


def unit(ids: list[int]) -> list[float]:
    row = numbers(ids, 4)
    return list((row / np.linalg.norm(row)).tolist())


@kind("embed")
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_through_the_client(world: World, encoding: str) -> None:
    texts = ["ab", "cde"]
    reply = world.service.openai.embeddings.create(
        model="tiny", input=texts, encoding_format=encoding
    )
    assert [item.index for item in reply.data] == [0, 1]
    for item, text in zip(reply.data, texts, strict=True):
        values = item.embedding
        if isinstance(values, str):
            values = np.frombuffer(base64.b64decode(values), "<f4").tolist()
        assert values == pytest.approx(unit(world.ids(text)))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 5
    assert reply.model == "tiny"


@kind("embed")
@pytest.mark.parametrize(
    ("given", "ids"),
    [("ab", ["ab"]), (["a", "b"], ["a", "b"]), ([5, 6], [[5, 6]]), ([[5], [6, 7]], [[5], [6, 7]])],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_inputs_of_every_kind(world: World, given: Any, ids: list[Any]) -> None:
    data = world.post("/v1/embeddings", input=given)["data"]
    wanted = [world.ids(i) if isinstance(i, str) else i for i in ids]
    assert [list(job.prompt.ids) for job in world.pooler.jobs] == wanted
    assert [item["embedding"] for item in data] == [pytest.approx(unit(i)) for i in wanted]


@kind("embed")
def test_dimensions_cut_and_normalise_again(world: World) -> None:
    vector = world.post("/v1/embeddings", input=[3, 4, 5], dimensions=2)["data"][0]["embedding"]
    assert vector == pytest.approx([0.6, 0.8])


@kind("embed")
@pytest.mark.parametrize(("limit", "length"), [(3, 3), (100, 10), (-1, 10)])
def test_truncation(world: World, limit: int, length: int) -> None:
    for given in ("0123456789", list(range(10))):
        world.post("/v1/embeddings", input=given, truncate_prompt_tokens=limit)
        assert len(world.pooler.jobs[-1].prompt.ids) == length


@kind("tokens")
def test_a_vector_for_each_token(world: World) -> None:
    (item,) = world.post("/v1/embeddings", input=[3, 4])["data"]
    assert [row[0] for row in item["embedding"]] == pytest.approx([0.3, 0.4])
    reply = world.service.post("/v1/embeddings", input=[3], encoding_format="base64")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "encoding_format"


@kind("classify")
def test_classes(world: World) -> None:
    found = world.post("/v1/classify", input=[[1, 2], [30, 1]], rid=["x", "y"])
    assert [item["index"] for item in found["data"]] == [0, 1]
    assert found["data"][1]["label"] == "good"
    powers = [math.exp(v) for v in (0.1, 0.2, 0.3)]
    assert found["data"][0]["probs"] == pytest.approx([p / sum(powers) for p in powers])
    assert found["data"][0]["num_classes"] == 3
    assert found["usage"]["prompt_tokens"] == 4
    raw = world.post("/classify", input_ids=[1, 2])
    assert raw["embedding"] == pytest.approx([0.1, 0.2, 0.3])
    assert raw["meta_info"]["prompt_tokens"] == 2


@kind("rank")
def test_rerank(world: World) -> None:
    documents = ["!", "%", "#"]
    for method in ("POST", "PUT"):
        body = {"query": "!", "documents": documents}
        found = world.service.http.request(method, "/v1/rerank", json=body).json()
        assert [item["document"] for item in found] == ["%", "#", "!"]
        assert [item["index"] for item in found] == [1, 2, 0]
        assert all(0.5 <= item["score"] < 1 for item in found)
        assert found[0]["meta_info"]["prompt_tokens"] == 2
    assert {job.params.second for job in world.pooler.jobs} == {1}
    best = world.post("/v1/rerank", query="!", documents=documents, top_n=1, return_documents=False)
    assert [(item["index"], item["document"]) for item in best] == [(1, None)]
    world.post("/v1/rerank", query="q", documents=["x" * 99], truncate_prompt_tokens=-1)
    assert len(world.pooler.jobs[-1].prompt.ids) == 20, "the model's own limit"


@kind("rank")
def test_native_pairs(world: World) -> None:
    one = world.post("/encode", text=["q", "doc"], is_cross_encoder_request=True)
    many = world.post("/encode", text=[["q", "doc"], ["q", "x"]], is_cross_encoder_request=True)
    assert one["embedding"] == many[0]["embedding"]
    assert len(many) == 2


@kind("embed", "classify", "rank", "tokens")
def test_native_encode(world: World) -> None:
    one = world.post("/encode", text="ab", rid="mine")
    assert one["meta_info"] == {"id": "mine", "prompt_tokens": 2, "cached_tokens": 1}
    many = world.post("/encode", input_ids=[world.ids("ab"), [3]])
    assert many[0]["embedding"] == one["embedding"]
    assert isinstance(world.post("/encode", text=["ab"]), list)


CUT, LABELS = {"truncate_prompt_tokens": 5}, {"label_token_ids": [1]}
BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("embed", "/v1/embeddings", {}, "input"),
    ("embed", "/v1/embeddings", {"input": []}, "input"),
    ("embed", "/v1/embeddings", {"input": [[]]}, "input"),
    ("embed", "/v1/embeddings", {"input": {"text": "x"}}, "input"),
    ("embed", "/v1/embeddings", {"input": [1, "a"]}, "input"),
    ("embed", "/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ("embed", "/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
    ("embed", "/v1/embeddings", {"input": "a", "dimensions": 5}, "dimensions"),
    ("embed", "/v1/embeddings", {"input": "a", "dimensions": 2.0}, "dimensions"),
    ("embed", "/v1/embeddings", {"input": "a", **CUT, "truncate_prompt_tokens": 0}, *CUT),
    ("embed", "/v1/embeddings", {"input": "a", "truncate_prompt_tokens": -2}, *CUT),
    ("embed", "/v1/embeddings", {"input": "a", "lora_path": "x"}, "lora_path"),
    ("embed", "/v1/embeddings", {"input": "a", "embed_overrides": [[[1.0]]]}, "embed_overrides"),
    ("embed", "/v1/embeddings", {"input": ["a", "b"], "rid": ["x"]}, "rid"),
    ("embed", "/v1/embeddings", {"input": "a", "priority": 3}, "priority"),
    ("embed", "/v1/embeddings", {"input": "a", "surprise": 1}, "surprise"),
    ("embed", "/v1/embeddings", {"input": "x" * 40_000}, "input"),
    ("embed", "/v1/classify", {"input": "a"}, "model"),
    ("embed", "/v1/rerank", {"query": "a", "documents": ["b"]}, "model"),
    ("embed", "/v1/score", {"query": "a", "items": ["b"]}, "model"),
    ("classify", "/v1/embeddings", {"input": "a"}, "model"),
    ("rank", "/v1/rerank", {"query": "a", "documents": []}, "documents"),
    ("rank", "/v1/rerank", {"query": 1, "documents": ["a"]}, "query"),
    ("rank", "/v1/rerank", {"documents": ["a"]}, "query"),
    ("rank", "/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
    ("rank", "/v1/rerank", {"query": "a", "documents": ["b"], "instruct": "x"}, "instruct"),
    ("classify", "/v1/score", {"query": "a", "items": [], **LABELS}, *LABELS),
]  # fmt: skip


@pytest.mark.parametrize(("model", "path", "body", "param"), BAD, ids=lambda v: str(v)[:45])
def test_bad_bodies(start: Start, model: str, path: str, body: dict[str, Any], param: str) -> None:
    world = World(start, model)
    reply = world.service.post(path, **body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["param"] == param, error
    assert set(error) == {"message", "type", "param", "code"}


@kind("rank")
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": ["a", 5]}, "text"),
        ({"text": ["a", "b", "c"], "is_cross_encoder_request": True}, "pair"),
        ({"text": [["a"]], "is_cross_encoder_request": True}, "pair"),
        ({"image_data": "x"}, "image_data"),
    ],
    ids=str,
)
def test_bad_native_bodies(world: World, body: dict[str, Any], word: str) -> None:
    reply = world.service.post("/encode", **body)
    assert reply.status_code == 400
    assert word in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_model_that_generates_says_so(service: Service, path: str) -> None:
    reply = service.post(path, **ROUTES[path])
    assert reply.status_code == 400
    assert "generates text" in reply.json()["error"]["message"]
    assert service.engine.requests == []


@kind("embed")
def test_a_client_that_leaves_ends_the_work(world: World) -> None:
    world.pooler.delay_s = 30.0
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.3) as client:
        client.post(f"{world.service.url}/v1/embeddings", json={"input": "a"})
    for _ in range(100):
        if world.pooler.num_cancelled:
            break
        world.service.http.get("/health")
    assert world.pooler.num_cancelled == 1


# Scores: the scripted engine gives id t the log-probability -(t + id) / 100 after token t.


def test_scores_of_labels(service: Service) -> None:
    body: dict[str, Any] = {"query": "q", "items": ["a", "bc"], "label_token_ids": [3, 50]}
    found = service.post("/v1/score", **body).json()
    tokenizer = service.engine.tokenizer
    prompts = [list(request.input_ids) for request in service.engine.requests]
    assert prompts == [tokenizer.encode("qa"), tokenizer.encode("qbc")]
    assert all(request.params.max_new_tokens == 1 for request in service.engine.requests)
    first = tokenizer.encode("H")[0]
    raw = [-(first + 3) / 100, -(first + 50) / 100]
    assert found["scores"] == [pytest.approx([math.exp(v) for v in raw])] * 2
    assert found["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    assert found["object"] == "scoring"
    soft = service.post("/v1/score", **body, apply_softmax=True, return_token_logprobs=True).json()
    assert [sum(row) for row in soft["scores"]] == pytest.approx([1.0, 1.0])
    assert soft["scores"][0][0] / soft["scores"][0][1] == pytest.approx(math.exp(raw[0] - raw[1]))
    assert soft["token_logprobs"][0] == pytest.approx(raw)
    hot = service.post("/v1/score", **body, apply_softmax=True, temperature=0.5).json()["scores"]
    assert hot[0][0] / hot[0][1] == pytest.approx(math.exp(2 * (raw[0] - raw[1])))


def test_scores_of_ids_and_their_order(service: Service) -> None:
    body: dict[str, Any] = {"query": [1, 2], "items": [[3], [4, 5]], "label_token_ids": [[7], [8]]}
    service.post("/v1/score", **body)
    assert [r.input_ids for r in service.engine.requests] == [(1, 2, 3), (1, 2, 4, 5)]
    assert [r.token_ids_logprob for r in service.engine.requests] == [(7,), (8,)]
    service.engine.reset()
    service.post("/v1/score", **body, item_first=True)
    assert [r.input_ids for r in service.engine.requests] == [(3, 1, 2), (4, 5, 1, 2)]
    empty = service.post("/v1/score", query="a", items=[], label_token_ids=[1]).json()
    assert empty["scores"] == []
    assert service.post("/v1/score", query="a", items="b", label_token_ids=[1]).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": ["a"]}, "query"),
        ({"query": "a"}, "items"),
        ({"query": "a", "items": ["b"]}, "label_token_ids"),
        ({"query": "a", "items": ["b"], "label_token_ids": []}, "label_token_ids"),
        ({"query": "a", "items": ["b"], "label_token_ids": [[1], [2]]}, "label_token_ids"),
        ({"query": "a", "items": ["b"], "label_token_ids": [-1]}, "label_token_ids"),
        ({"query": "a", "items": ["b"], "label_token_ids": [10**9]}, "label_token_ids"),
        ({"query": "a", "items": [[1]], "label_token_ids": [1]}, "items"),
        ({"query": [1], "items": ["b"], "label_token_ids": [1]}, "items"),
        ({"query": [-1], "items": [[1]], "label_token_ids": [1]}, "items"),
        ({"query": "a", "items": ["b"], "label_token_ids": [1], "temperature": 2.0}, "temperature"),
        (
            {"query": "a", "items": ["b"], "label_token_ids": [1], "truncate_prompt_tokens": 5},
            "truncate_prompt_tokens",
        ),
        (
            {"query": "a", "items": ["b"], "label_token_ids": [1], "apply_softmax": True,
             "temperature": 0.0},
            "temperature",
        ),
        ({"query": "a" * 600, "items": ["b"], "label_token_ids": [1]}, "items"),
    ],
    ids=lambda v: str(v)[:60],
)  # fmt: skip
def test_bad_scores(service: Service, body: dict[str, Any], param: str) -> None:
    reply = service.post("/v1/score", **body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert service.engine.requests == []


@kind("classify")
def test_scores_of_classes(world: World) -> None:
    found = world.post("/v1/score", query=[1], items=[[2], [3]], apply_softmax=True)["scores"]
    powers = [math.exp(v) for v in (0.1, 0.2, 0.3)]
    assert found[0] == pytest.approx([p / sum(powers) for p in powers])
    assert world.post("/v1/score", query="a", items=["b"])["scores"][0]
