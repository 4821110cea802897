"""Models loaded, unloaded and changed on a running server, and the memory that they leave."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_letter_model, write_tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

PROMPT = [5, 6, 7, 8, 9, 10, 11]
PARAMS = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
LONG = {**PARAMS, "max_new_tokens": 200}
TOOLS_TEMPLATE = (
    "{% for t in tools %}<tool_call>{{ t }}</tool_call>{% endfor %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)


@dataclass
class World:
    """A server that began without a model, and two models to load, of different families."""

    server: ServerProcess
    root: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.server.url + path, json=body, timeout=900)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.server.url + path, timeout=30)

    def load(self, name: str, **fields: Any) -> None:
        reply = self.post("/load_model", model_path=name, **fields)
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"] == fields.get("served_model_name", name)

    def unload(self, **fields: Any) -> None:
        assert self.post("/unload_model", **fields).status_code == 200
        assert self.get("/model_state").json()["state"] == "empty"

    def ids(self) -> list[int]:
        reply = self.post("/generate", input_ids=PROMPT, sampling_params=PARAMS)
        assert reply.status_code == 200, reply.text
        found: list[int] = reply.json()["output_ids"]
        return found

    def expected(self, name: str) -> list[int]:
        """Greedy tokens by transformers."""
        model = AutoModelForCausalLM.from_pretrained(self.root / name, dtype=torch.float32).eval()
        ids = list(PROMPT)
        with torch.inference_mode():
            for _ in range(PARAMS["max_new_tokens"]):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(PROMPT) :]

    def stream_while(self, path: str, **body: Any) -> tuple[dict[str, Any], httpx.Response]:
        """The last event of a long stream, during which this was asked, and the answer."""
        request = {"input_ids": PROMPT, "sampling_params": LONG, "stream": True}
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(self.post(path, **body)))
        url = f"{self.server.url}/generate"
        with httpx.stream("POST", url, json=request, timeout=60) as stream:
            lines = (line for line in stream.iter_lines() if line.startswith("data: {"))
            next(lines)
            asking.start()
            last = json.loads(list(lines)[-1].removeprefix("data: "))
        asking.join(900)
        return last, answers[0]

    def memory_bytes(self) -> int:
        """What the server's processes hold for themselves."""
        own = self.server.process
        return sum(
            process.memory_full_info().uss
            for process in (own, *own.children(recursive=True))
            if process.status() != psutil.STATUS_ZOMBIE
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("weights")
    kinds = {"one": (LlamaConfig, write_letter_model), "two": (Qwen2Config, write_tiny_model)}
    for seed, (name, (kind, write)) in enumerate(kinds.items()):
        (root / name).mkdir()
        write(root / name)
        told = json.loads((root / name / "config.json").read_text())
        del told["model_type"], told["architectures"]
        torch.manual_seed(seed)
        config = kind(**told, initializer_range=0.4)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    flags = ["--without-model", "--weight-roots", str(root), "--enable-admin-routes"]
    flags += ["--dtype", "float32", "--check-integrity", "--max-total-tokens", "4096"]
    with ServerProcess("", root, *flags) as server:
        yield World(server, root)


def test_without_a_model(world: World) -> None:
    codes = {path: world.get(path).status_code for path in ("/health", "/ready", "/model_info")}
    assert codes == {"/health": 200, "/ready": 503, "/model_info": 503}
    assert world.get("/v1/models").json()["data"] == []
    refused = world.post("/v1/completions", prompt="a")
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "model_not_loaded"
    assert world.get("/model_state").json() == {
        "state": "empty",
        "model": None,
        "num_running": 0,
        "phase": None,
        "progress": None,
    }
    assert world.post("/unload_model").status_code == 200, "nothing to do"


def test_what_cannot_be_loaded(world: World) -> None:
    """Where the files tell, the old model is served on; else none is, and the server lives."""
    world.load("one")
    broken = world.root / "broken"
    shutil.copytree(world.root / "one", broken)
    config = (broken / "config.json").read_text()
    (broken / "config.json").write_text(config.replace("Llama", "Alpaca").replace("llama", "alp"))
    refused = world.post("/load_model", model_path="broken")
    assert refused.status_code == 400
    assert "Alpaca" in refused.text
    assert "The server has one now" in refused.text
    assert str(world.root) not in refused.text
    assert world.post("/load_model", model_path="nowhere").status_code == 400
    assert world.post("/load_model", model_path="../one").status_code == 400
    assert world.post("/load_model", dtype="float16").status_code == 400
    assert world.get("/model_state").json()["model"] == "one"
    assert world.post("/v1/completions", prompt="a", max_tokens=1).status_code == 200
    (broken / "config.json").write_text(config.replace('"hidden_size": 64', '"hidden_size": 128'))
    refused = world.post("/load_model", model_path="broken")
    assert refused.status_code == 400
    assert "The server has no model now" in refused.text
    assert world.get("/model_state").json()["state"] == "empty"
    assert world.server.healthy()


def test_two_models_in_turn(world: World) -> None:
    """A stream that runs ends whole, newcomers are refused meanwhile, and nothing is mixed up. With
    no more time, requests are aborted and their replies end as such."""
    world.load("one", served_model_name="first", weight_version="a")
    want = world.expected("one")
    assert world.ids() == want
    assert world.get("/model_info").json()["weight_version"] == "a"
    refusals: list[httpx.Response] = []

    def newcomer() -> None:
        while world.get("/model_state").json()["state"] != "unloading":
            time.sleep(0.01)
        refusals.append(world.post("/v1/completions", prompt="a", model="first"))

    watching = threading.Thread(target=newcomer)
    watching.start()
    last, loaded = world.stream_while(
        "/load_model", model_path="two", chat_template=TOOLS_TEMPLATE, drain_timeout_s=60
    )
    watching.join(60)
    assert last["output_ids"][: len(want)] == want
    assert len(last["output_ids"]) == LONG["max_new_tokens"]
    assert last["meta_info"]["finish_reason"]["type"] == "length"
    assert refusals[0].status_code == 503
    assert refusals[0].headers["retry-after"] == "1"
    assert loaded.status_code == 200, loaded.text
    assert world.ids() == world.expected("two")
    (card,) = world.get("/v1/models").json()["data"]
    assert card["id"] == "two"
    info = world.get("/model_info").json()
    assert (info["model_type"], info["tool_call_parser"]) == ("qwen2", "hermes")
    assert info["weight_version"] == "default"
    assert world.post("/tokenize", prompt="w7 w300").json()["tokens"] == [7, 300]
    assert 'model_name="two"' in world.get("/metrics").text
    gone = world.post("/v1/completions", prompt="w7", model="first")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    last, unloaded = world.stream_while("/unload_model", drain_timeout_s=0)
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    assert unloaded.status_code == 200
    assert world.get("/v1/models").json()["data"] == []


@pytest.mark.long
def test_memory_comes_back(world: World) -> None:
    """Ten times load, serve, unload, load another: what is held with no model, and with the first,
    stays within 2 % of what it was the first time."""
    names, free, loaded = ("one", "two"), [], []
    want = {name: world.expected(name) for name in names}
    for turn in range(10):
        name = names[turn % 2]
        world.load(name)
        assert world.ids() == want[name]
        if name == "one":
            loaded.append(world.memory_bytes())
        last, _ = world.stream_while("/unload_model", drain_timeout_s=600)
        assert len(last["output_ids"]) == LONG["max_new_tokens"]
        free.append(world.memory_bytes())
    print("without a model:", free, "with the first:", loaded)
    assert max(free) <= free[0] * 1.02, free
    assert max(loaded) <= loaded[0] * 1.02, loaded
