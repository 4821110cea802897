"""What ``/load_model`` takes and refuses before any engine hears of it."""

from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import Start

from tupelo.config import EngineConfig
from tupelo.errors import ConfigError, InvalidRequest
from tupelo_server.config import ServerConfig
from tupelo_server.protocol.operate import LoadModelBody
from tupelo_server.state import ServerState


def first(root: Path) -> ServerState:
    """A server that was started for a model of its own, with options of its own."""
    engine = EngineConfig(
        model="first",
        tokenizer="first-words",
        served_model_name="the first",
        revision="v1",
        page_size=8,
        weight_roots=str(root),
    )
    config = ServerConfig(port=0, tool_call_parser="hermes", weight_version="7")
    return ServerState(config=config, engine_config=engine, template="{{ messages }}")


def test_what_a_load_takes(tmp_path: Path) -> None:
    """A model's own options begin anew; the server's stay; without a path it is the first model."""
    (tmp_path / "next").mkdir()
    state = first(tmp_path)
    body = LoadModelBody.parse({"model_path": "next", "context_length": 64, "drain_timeout_s": 3})
    options = body.options(state.first_model)
    assert options.engine == EngineConfig(
        model=str(tmp_path / "next"), context_length=64, page_size=8, weight_roots=str(tmp_path)
    )
    assert (options.chat_template, options.tool_call_parser) == (None, "auto")
    assert options.weight_version == "default"
    again = LoadModelBody.parse({"drain_timeout_s": 3}).options(state.first_model)
    assert again == state.first_model
    assert (again.engine.revision, again.tool_call_parser) == ("v1", "hermes")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"model_path": "../next"}, "model_path"),
        ({"model_path": "/etc"}, "model_path"),
        ({"model_path": ""}, "model_path"),
        ({"model_path": "next", "tokenizer_path": "/etc"}, "tokenizer_path"),
        ({"model_path": "next", "dtype": "int3"}, "int3"),
        ({"model_path": "next", "context_length": -1}, "context"),
        ({"model_path": "next", "tool_call_parser": "magic"}, "magic"),
        ({"model_path": "next", "reasoning_parser": "magic"}, "magic"),
        ({"model_path": "next", "drain_timeout_s": -1}, "drain_timeout_s"),
        ({"model_path": "next", "drain_timeout_s": 1e9}, "drain_timeout_s"),
        ({"model_path": "next", "tp_size": 2}, "tp_size"),
        ({"dtype": "float32"}, "dtype"),
    ],
    ids=lambda v: str(v)[:50],
)
def test_what_it_refuses(tmp_path: Path, body: dict[str, Any], word: str) -> None:
    (tmp_path / "next").mkdir()
    with pytest.raises(InvalidRequest, match=word):
        _checked(body, tmp_path)


def _checked(body: dict[str, Any], folder: Path) -> None:
    parsed = LoadModelBody.parse(body)
    parsed.drain_s(1.0)
    parsed.options(first(folder).first_model)


def test_a_server_without_roots_loads_no_paths(start: Start) -> None:
    service = start(enable_admin_routes=True)
    reply = service.post("/load_model", model_path="/etc")
    assert reply.status_code == 400
    assert "--weight-roots" in reply.json()["error"]["message"]
    assert service.post("/generate", text="a").status_code == 200


def test_a_server_without_a_model_needs_somebody_to_load_one() -> None:
    with pytest.raises(ConfigError, match="--without-model"):
        ServerConfig(port=0, without_model=True)
