"""Administrators on a real server: pauses, other weights, sleep, profiles."""

import gzip
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_letter_model
from transformers import LlamaConfig, LlamaForCausalLM

PROMPT = [5, 6, 7, 8, 9, 10, 11]
PARAMS = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}


@dataclass
class World:
    """A server over weights ``one``; ``two`` stands beside them."""

    server: ServerProcess
    root: Path

    def post(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.server.url + path, json=body, timeout=60)

    def ids(self) -> list[int]:
        reply = self.post("/generate", input_ids=PROMPT, sampling_params=PARAMS)
        assert reply.status_code == 200, reply.text
        found: list[int] = reply.json()["output_ids"]
        return found

    def expected(self, name: str) -> list[int]:
        """Greedy tokens by transformers."""
        model = LlamaForCausalLM.from_pretrained(self.root / name, dtype=torch.float32).eval()
        ids = list(PROMPT)
        with torch.inference_mode():
            for _ in range(PARAMS["max_new_tokens"]):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(PROMPT) :]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("one", "two")):
        (root / name).mkdir()
        write_letter_model(root / name)
        torch.manual_seed(seed)
        config = LlamaConfig.from_pretrained(root / name, initializer_range=0.4)
        LlamaForCausalLM(config).save_pretrained(root / name)
    flags = ["--weight-roots", str(root), "--profile-dir", str(root / "profiles")]
    flags += ["--enable-admin-routes", "--dtype", "float32", "--check-integrity"]
    with ServerProcess(root / "one", root, *flags) as server:
        yield World(server, root)


def test_other_weights_while_a_stream_runs(world: World) -> None:
    first, second = world.expected("one"), world.expected("two")
    assert first != second
    assert world.ids() == first
    body = {"input_ids": PROMPT, "sampling_params": {**PARAMS, "max_new_tokens": 200}}
    url = f"{world.server.url}/generate"
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: {"))
        next(lines)
        done = world.post("/update_weights_from_disk", model_path="two", weight_version="two")
        assert done.json() == {
            "success": True,
            "message": "Succeeded to update model weights.",
            "num_paused_requests": 1,
        }
        last = json.loads(list(lines)[-1].removeprefix("data: "))
    assert len(last["output_ids"]) == 200
    assert last["output_ids"][:1] == first[:1]
    assert last["meta_info"]["num_retractions"] == 1
    assert world.ids() == second
    assert httpx.get(f"{world.server.url}/weight_version").json() == {"weight_version": "two"}
    refused = world.post("/update_weights_from_disk", model_path="../outside")
    assert refused.status_code == 400
    assert refused.json()["success"] is False
    assert world.post("/update_weights_from_disk", model_path=str(world.root / "one")).is_success
    assert world.ids() == first


def test_paused_and_asleep_requests_wait(world: World) -> None:
    want = world.ids()
    ready = f"{world.server.url}/ready"
    pairs = [
        (("/pause_generation", {"mode": "retract"}), "/continue_generation"),
        (("/release_memory_occupation", {}), "/resume_memory_occupation"),
    ]
    for (stop, body), go_on in pairs:
        assert world.post(stop, **body).status_code == 200
        assert httpx.get(ready).status_code == 503
        assert world.server.healthy()
        found: list[list[int]] = []
        asking = threading.Thread(target=lambda found=found: found.append(world.ids()))
        asking.start()
        time.sleep(0.3)
        assert not found, "it waits"
        assert world.post(go_on).status_code == 200
        asking.join(30)
        assert found == [want]
        assert httpx.get(ready).status_code == 200


def test_a_profile_of_so_many_steps(world: World) -> None:
    assert world.post("/start_profile", num_steps=4, profile_prefix="four").status_code == 200
    world.ids()
    (file,) = (world.root / "profiles").iterdir()
    assert file.name.startswith("four-")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "aten::embedding" for event in events) == 4
    assert world.post("/stop_profile").status_code == 400
    assert world.post("/start_profile", output_dir="/tmp").status_code == 400
