"""Administrators' routes: what reaches the engine, what comes back, and who may ask."""

from typing import Any

import httpx
import pytest
from tests.unit.server.conftest import TOKENIZER, Service, Start
from tests.unit.server.fake_engine import FakeEngine

from tupelo.errors import InvalidRequest, RequestFailed
from tupelo_server.routes.loads import describe_load

PATHS = [
    "/pause_generation",
    "/continue_generation",
    "/update_weights_from_disk",
    "/update_weight_version",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/start_profile",
    "/stop_profile",
    "/load_model",
    "/unload_model",
]


@pytest.fixture
def admin(start: Start) -> Service:
    """A server whose administrators' routes are open, and an engine that agrees to everything."""
    service = start(enable_admin_routes=True)
    actions = ("pause", "resume", "update_weights", "release_memory", "resume_memory")
    service.engine.answers = {**dict.fromkeys(actions, 2), "start_profile": None}
    service.engine.answers["stop_profile"] = "profile-1.trace.json.gz"
    return service


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        ("/pause_generation", {}, ("pause", {"mode": "abort"})),
        ("/pause_generation", {"mode": "in_place"}, ("pause", {"mode": "in_place"})),
        ("/continue_generation", {"torch_empty_cache": True}, ("resume", {})),
        ("/release_memory_occupation", {}, ("release_memory", {"tags": None})),
        (
            "/resume_memory_occupation",
            {"tags": ["weights"]},
            ("resume_memory", {"tags": ["weights"]}),
        ),
        ("/start_profile", {}, ("start_profile", {})),
        (
            "/start_profile",
            {"num_steps": 3, "activities": ["CPU"], "profile_prefix": "x", "output_dir": None},
            ("start_profile", {"num_steps": 3, "activities": ["CPU"], "prefix": "x"}),
        ),
        ("/stop_profile", {}, ("stop_profile", {})),
        (
            "/update_weights_from_disk",
            {"model_path": "new", "load_format": None, "flush_cache": True, "is_async": False},
            ("update_weights", {"path": "new", "abort_requests": False, "keep_paused": False}),
        ),
    ],
    ids=lambda v: str(v)[:40],
)
def test_calls_reach_the_engine(
    admin: Service, path: str, body: dict[str, Any], call: tuple[str, Any]
) -> None:
    reply = admin.post(path, **body)
    assert reply.status_code == 200, reply.text
    assert admin.engine.controls == [call]


def test_bodies_of_replies(admin: Service) -> None:
    found = admin.post("/pause_generation").json()
    assert found == {"message": "Generation paused successfully.", "status": "ok"}
    assert admin.post("/release_memory_occupation").json() is None
    assert "profile-1" in admin.http.get("/stop_profile").text
    update = admin.post("/update_weights_from_disk", model_path="x", weight_version="step 7")
    assert update.json()["success"] is True
    assert update.json()["num_paused_requests"] == 2
    for path in ("/weight_version", "/get_weight_version"):
        assert admin.http.get(path).json() == {"weight_version": "step 7"}
    assert admin.http.get("/model_info").json()["weight_version"] == "step 7"
    named = admin.post("/update_weight_version", new_version="step 8").json()
    assert named["success"] is True
    meta = admin.post("/generate", text="a").json()["meta_info"]
    assert meta["weight_version"] == "step 8"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("model_path: no", param="model_path"), 400),
        (RequestFailed("out of memory"), 500),
    ],
    ids=["refused", "failed"],
)
def test_weights_that_are_refused(admin: Service, error: Exception, status: int) -> None:
    admin.engine.answers["update_weights"] = error
    reply = admin.post("/update_weights_from_disk", model_path="x", weight_version="new")
    assert reply.status_code == status
    found = reply.json()
    assert found == {"success": False, "message": str(error), "num_paused_requests": 0}
    assert admin.http.get("/weight_version").json() == {"weight_version": "default"}


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/update_weights_from_disk", {}, "model_path"),
        ("/update_weights_from_disk", {"model_path": 3}, "model_path"),
        ("/update_weights_from_disk", {"model_path": "x", "flush_cache": False}, "flush_cache"),
        ("/update_weights_from_disk", {"model_path": "x", "load_format": "pt"}, "load_format"),
        ("/update_weights_from_disk", {"model_path": "x", "is_async": True}, "is_async"),
        ("/update_weights_from_disk", {"model_path": "x", "manifest": {"a": 1}}, "manifest"),
        ("/pause_generation", {"mode": 1}, "mode"),
        ("/pause_generation", {"surprise": 1}, "surprise"),
        ("/start_profile", {"merge_profiles": True}, "merge_profiles"),
        ("/start_profile", {"num_steps": "3"}, "num_steps"),
        ("/resume_memory_occupation", {"tags": "weights"}, "tags"),
        ("/update_weight_version", {"new_version": "x" * 1000}, "new_version"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_bodies(admin: Service, path: str, body: dict[str, Any], word: str) -> None:
    reply = admin.post(path, **body)
    assert reply.status_code == 400
    assert word in reply.json()["error"]["message"]
    assert admin.engine.controls == []


def test_a_held_server_is_alive_but_not_ready(admin: Service) -> None:
    admin.engine.paused = 1
    admin.post("/pause_generation")
    codes = {p: admin.http.get(p).status_code for p in ("/health", "/health_generate", "/ready")}
    assert codes == {"/health": 200, "/health_generate": 200, "/ready": 503}
    assert admin.engine.requests == []
    admin.engine.paused = 0
    admin.post("/continue_generation")
    assert admin.http.get("/ready").status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_they_need_the_admin_key(start: Start, path: str) -> None:
    assert start().post(path).status_code == 404
    service = start(api_key="user", admin_api_key="boss")
    service.engine.answers = {"stop_profile": ""}
    with httpx.Client(base_url=service.url) as client:
        assert client.post(path).status_code == 401
        user = client.post(path, headers={"authorization": "Bearer user"})
        assert user.status_code == 403
        boss = client.post(
            path, headers={"authorization": "Bearer boss"}, json={"no_such_field": 1}
        )
        assert boss.status_code == (200 if path == "/stop_profile" else 400)


def test_loads(service: Service) -> None:
    found = service.http.get("/v1/loads").json()
    (load,) = found["loads"]
    assert found["num_accelerators"] == 1
    assert (load["num_running_reqs"], load["num_waiting_reqs"], load["dp_rank"]) == (0, 0, 0)
    assert load["max_total_num_tokens"] == 1024
    assert load["queues"] == {"waiting": 0, "paused": 0, "retracted": 0}
    assert "memory" in load
    core = service.http.get("/v1/loads?include=core&dp_rank=0").json()["loads"][0]
    assert "memory" not in core
    assert "queues" not in core
    text = service.http.get("/v1/loads?format=prometheus&include=queues").text
    assert 'sglang_num_running_reqs{dp_rank="0"} 0' in text
    assert 'sglang_queues_waiting{dp_rank="0"} 0' in text
    assert service.http.get("/get_load").json()[0]["num_reqs"] == 0


@pytest.mark.parametrize("query", ["include=all,x", "dp_rank=1", "dp_rank=x", "format=xml"])
def test_bad_queries_of_loads(service: Service, query: str) -> None:
    reply = service.http.get(f"/v1/loads?{query}")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == query.split("=")[0]


def test_loads_of_a_model_without_a_cache() -> None:
    stats: dict[str, Any] = {
        "num_running": 1,
        "num_waiting": 0,
        "pages_owned": [],
        "pages_total": [],
    }
    stats |= {"page_size": 16, "retractions": 0}
    load = describe_load(stats, FakeEngine(TOKENIZER).info, {"core"})
    assert (load["num_used_tokens"], load["token_usage"], load["num_running_reqs"]) == (0, 0.0, 1)
