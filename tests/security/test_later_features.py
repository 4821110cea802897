"""Input of features that are not there yet is refused by name, on every route that could take it.

T8 and T10 to T12 (media, client tensors) and the parts of T9, T24 and T26 that are about uploads,
adapters and transfer land with their features; until then nothing fetches, decodes or loads.
"""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.security.guarded import Guarded

NATIVE: dict[str, Any] = {
    "image_data": "data:image/png;base64,AAAA",
    "video_data": ["https://127.0.0.1/x"],
    "audio_data": "file:///etc/passwd",
    "input_embeds": [[0.1, 0.2]],
    "modalities": ["image"],
    "mm_processor_kwargs": {"a": 1},
    "images_config": {"a": 1},
    "video_config": {"a": 1},
    "lora_path": "../../etc",
    "session_id": "x",
    "custom_logit_processor": "gASVAAAA",
    "custom_params": {"a": 1},
    "bootstrap_host": "127.0.0.1",
    "bootstrap_port": 8998,
    "bootstrap_room": 7,
    "routed_dp_rank": 1,
    "return_hidden_states": True,
    "return_routed_experts": True,
    "return_sampling_mask": True,
    "beam_width": 4,
    "watermark": {"a": 1},
}
OPENAI: dict[str, Any] = {
    **NATIVE,
    "data_parallel_rank": 1,
    "audio": {"voice": "x", "format": "wav"},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "a"},
}

PARTS: dict[str, dict[str, Any]] = {
    "image_url": {"image_url": {"url": "{url}"}},
    "input_image": {"image_url": "{url}"},
    "image": {"source": {"type": "url", "url": "{url}"}},
    "video_url": {"video_url": {"url": "{url}"}},
    "audio_url": {"audio_url": {"url": "{url}"}},
    "input_audio": {"input_audio": {"data": "AAAA", "format": "wav"}},
    "file": {"file": {"file_data": "{url}"}},
    "image_embeds": {"image_embeds": "AAAA"},
    "pixel_values": {"pixel_values": [[1]]},
    "document": {"source": {"type": "url", "url": "{url}"}},
}

ABSENT = [
    "/v1/files",
    "/v1/uploads",
    "/v1/images/generations",
    "/v1/audio/transcriptions",
    "/load_lora_adapter",
    "/load_lora_adapter_from_tensors",
    "/unload_lora_adapter",
    "/update_weights_from_tensor",
    "/update_weights_from_distributed",
    "/update_weights_from_ipc",
    "/init_weights_update_group",
    "/hicache/storage-backend",
    "/dumper/x",
    "/v1/realtime",
]


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[str, list[bytes]]]:
    """An address of this machine, and what came to it: nothing should."""
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        ending = threading.Event()

        def accept() -> None:
            while not ending.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    came.append(connection.recv(1000))

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came
        ending.set()
        thread.join()


@pytest.mark.parametrize("name", NATIVE)
def test_native_fields(server: Guarded, name: str) -> None:
    body = {"text": "a", "sampling_params": {"max_new_tokens": 1}, name: NATIVE[name]}
    _refused_by_name(server, "/generate", body, name)
    inside = {"text": "a", "sampling_params": {"max_new_tokens": 1, name: NATIVE[name]}}
    _refused_by_name(server, "/generate", inside, name)


@pytest.mark.parametrize("name", OPENAI)
def test_openai_fields(server: Guarded, name: str) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    _refused_by_name(server, "/v1/chat/completions", {**chat, name: OPENAI[name]}, name)
    text = {"prompt": "a", "max_tokens": 1}
    _refused_by_name(server, "/v1/completions", {**text, name: OPENAI[name]}, name)


@pytest.mark.parametrize("kind", PARTS)
def test_parts_that_are_no_text(
    server: Guarded, listener: "tuple[str, list[bytes]]", kind: str
) -> None:
    """Neither fetched nor decoded: no connection is made, and the words are the kind's."""
    url, came = listener
    for target in (f"{url}/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        part = {"type": kind, **_filled(PARTS[kind], target)}
        for content in ([part], [{"type": "text", "text": "a"}, part]):
            for role in ("user", "system", "assistant"):
                messages = [{"role": role, "content": content}]
                for route in ("/v1/chat/completions", "/v1/tokenize", "/tokenize"):
                    reply = server.post(route, {"messages": messages})
                    assert reply.status_code == 400, (route, reply.text)
                    assert kind in reply.text
                    assert "root:" not in reply.text
    assert came == []


@pytest.mark.parametrize("path", ABSENT)
def test_routes_of_later_features_are_absent(server: Guarded, path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        reply = server.request(method, path, content=b"{}")
        assert reply.status_code in (404, 405), (method, path, reply.text)


def test_adapters_in_a_model_s_name_are_not_looked_up(server: Guarded) -> None:
    """``model`` may say ``base:adapter``; there are none, so it is only another name."""
    for name in ("tiny:../../etc/passwd", "tiny:adapter", "/etc/passwd"):
        reply = server.post("/v1/completions", {"model": name, "prompt": "a", "max_tokens": 1})
        assert reply.status_code in (200, 400, 404)
        assert "root:" not in reply.text


def _refused_by_name(server: Guarded, route: str, body: dict[str, Any], name: str) -> None:
    reply = server.post(route, body)
    assert reply.status_code == 400, (route, name, reply.text)
    assert name in reply.text


def _filled(part: Any, url: str) -> Any:
    if isinstance(part, dict):
        return {key: _filled(value, url) for key, value in part.items()}
    return part.replace("{url}", url) if isinstance(part, str) else part
