"""T1: gadget bytes at every socket and route: dropped, counted, nothing runs."""

import random
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.security import gadgets
from tests.security.guarded import Guarded, Keyed
from tests.security.routes import all_routes
from tests.security.test_t02_sockets import folder_of

from tupelo.engine.messages import Abort, Heartbeat, encode

FIELDS = (
    "serialized_named_tensors",
    "custom_logit_processor",
    "custom_params",
    "input_embeds",
    "image_data",
    "lora_path",
    "config_dict",
    "handles",
    "model_path",
    "load_format",
    "rid",
)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that no gadget may make."""
    return tmp_path / "ran"


def test_the_gadget_would_run(marker: Path) -> None:
    """Else this file would prove nothing."""
    import pickletools

    found = list(pickletools.genops(gadgets.pickled(marker)))
    assert [op.name for op, _, _ in found] == [
        "GLOBAL",
        "MARK",
        "STRING",
        "TUPLE",
        "REDUCE",
        "STOP",
    ]
    assert found[0][1] == "posix system"


def test_gadgets_at_every_route(keyed: Keyed, marker: Path) -> None:
    headers = keyed.as_(keyed.root)
    paths = {route.path for route in all_routes() if route.method in ("POST", "PUT")}
    assert len(paths) > 10
    kinds = ("application/json", "application/octet-stream", "application/python-pickle")
    for path in sorted(paths):
        for content in (gadgets.pickled(marker), gadgets.torch_file(marker)):
            for kind in kinds:
                reply = keyed.request(
                    "POST", path, content=content, headers={**headers, "content-type": kind}
                )
                assert reply.status_code in (400, 404, 200), (path, reply.text)
                if reply.status_code == 200:
                    assert path in ("/flush_cache", "/stop_profile"), "it reads no body"
        for field in FIELDS:
            for value in (gadgets.as_text(marker), gadgets.expression(marker)):
                body: dict[str, Any] = {"prompt": "a", "messages": [], field: value}
                reply = keyed.post(path, body, headers=headers)
                assert reply.status_code in (400, 404, 200), (path, field, reply.text)
    assert not marker.exists()


def test_gadgets_and_noise_from_the_engine_s_side(server: Guarded, marker: Path) -> None:
    """What cannot be decoded is counted and changes nothing."""
    noise = random.Random(1)
    sent = [
        gadgets.pickled(marker),
        gadgets.torch_file(marker),
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",  # msgpack: a list of four billion
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 100_000,
        encode({"type": "Outputs", "items": [{"rid": 1, "token_ids": "a"}]}),
        encode({"type": "Nonsense"}),
        encode({"type": "Heartbeat", "step": "a", "step_age_s": []}),
        encode({"type": "Reply", "number": 2**70 % 2**63, "ok": "yes"}),
        encode(Abort(["s1"])),  # of the other direction
        *(noise.randbytes(noise.randrange(1, 400)) for _ in range(300)),
    ]
    before = server.metric("tupelo:messages_dropped_total")
    _push(server, "from-engine", sent)
    seen = len(sent) - 20  # some noise may happen to be a message that changes nothing
    server.wait_for(lambda: server.metric("tupelo:messages_dropped_total") >= before + seen, 20)
    assert not marker.exists()


def test_messages_about_nobody_change_nothing(server: Guarded) -> None:
    sent = [
        encode({"type": "Outputs", "items": [{"rid": "nobody", "token_ids": [1]}]}),
        encode({"type": "Reply", "number": 10**6, "ok": True, "value": {"a": [1]}}),
        encode({"type": "Progress", "phase": "x" * 1000, "fraction": -1.0}),
        encode({"type": "StartFailed", "kind": "SystemExit", "message": "x"}),
        encode({"type": "StartFailed", "kind": "__class__", "message": "x"}),
        encode(Heartbeat(step=-1, step_age_s=0.0)),
    ]
    _push(server, "from-engine", sent)
    server.streams.wait_for_a_round()


def _push(server: Guarded, name: str, messages: list[bytes]) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    try:
        socket.connect(f"ipc://{folder_of(server) / name}")
        for message in messages:
            socket.send(message)
    finally:
        socket.close(linger=5000)
        context.term()
