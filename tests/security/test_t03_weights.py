"""T3: weights are safetensors or GGUF; pickles are refused unread, lying headers are an error."""

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.security import gadgets
from tests.security.guarded import Keyed
from tests.security.model import CONFIG
from tests.unit.checkpoint.conftest import safetensors_bytes

from tupelo import Engine
from tupelo.errors import TupeloError

PICKLES = (
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "consolidated.00.pth",
    "model.ckpt",
    "model.pkl",
    "model.safetensors",  # by its name only
    "model.gguf",
)


def header(text: str, size: int | None = None) -> bytes:
    """A safetensors file with any header, which may lie about its own length."""
    data = text.encode()
    return struct.pack("<Q", len(data) if size is None else size) + data + bytes(64)


def entry(shape: Any, offsets: Any, dtype: str = "F32") -> str:
    fields = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return json.dumps({"model.norm.weight": fields})


GOOD = safetensors_bytes({"model.norm.weight": np.zeros(64, np.float32)})
LIES: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": GOOD[:7],
    "cut in the header": GOOD[:40],
    "cut in the data": GOOD[:-9],
    "a header of 2**63 bytes": header("{}", 2**63),
    "a header of 2**64 - 1 bytes": header("{}", 2**64 - 1),
    "a header of 100 MB": header("{}", 100_000_001),
    "no JSON": header("hello"),
    "a list": header("[]"),
    "deep": header("[" * 100_000),
    "not UTF-8": struct.pack("<Q", 4) + b"\xff\xfe{}" + bytes(64),
    "a huge shape": header(entry([2**40, 2**40], [0, 64])),
    "a negative shape": header(entry([-16], [0, 64])),
    "a shape of floats": header(entry([1.5], [0, 64])),
    "a shape of 64 dimensions": header(entry([1] * 64, [0, 4])),
    "offsets past the end": header(entry([16], [0, 2**40])),
    "negative offsets": header(entry([16], [-64, 0])),
    "offsets in reverse": header(entry([16], [64, 0])),
    "offsets that are no numbers": header(entry([16], ["0", "64"])),
    "an unknown type": header(entry([16], [0, 64], "F33")),
    "a type of code": header(entry([16], [0, 64], "__import__('os')")),
    "GGUF": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
}


def write_model(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for number, content in enumerate((gadgets.torch_file(marker), gadgets.pickled(marker))):
        model = write_model(tmp_path / f"m{number}", name, content)
        for path in (model, model / name):
            with pytest.raises(TupeloError):
                Engine(model=str(path), tokenizer="", max_total_tokens=64)
    assert not marker.exists()


@pytest.mark.parametrize("name", LIES)
def test_lying_headers_are_an_error(name: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", "model.safetensors", LIES[name])
    with pytest.raises(TupeloError) as caught:
        Engine(model=str(model), max_total_tokens=64)
    assert len(str(caught.value)) < 1000


def test_serve_says_why_it_refuses_a_pickle(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    model = write_model(tmp_path / "m", "pytorch_model.bin", gadgets.torch_file(marker))
    done = subprocess.run(
        [sys.executable, "-m", "tupelo", "serve", str(model), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_weights_that_a_client_names(keyed: Keyed, tmp_path: Path) -> None:
    """Through the route that replaces weights, beside streams that go on with the old ones."""
    marker = tmp_path / "ran"
    files = {f"lie {n}": ("model.safetensors", content) for n, content in enumerate(LIES.values())}
    files |= {f"pickle {name}": (name, gadgets.torch_file(marker)) for name in PICKLES}
    for name, (file, content) in files.items():
        write_model(keyed.roots / name, file, content)
        body = {"model_path": name, "abort_all_requests": False}
        reply = keyed.post("/update_weights_from_disk", body, headers=keyed.as_(keyed.root))
        assert reply.status_code == 400, (name, reply.text)
        assert reply.json()["success"] is False
        assert str(keyed.roots) not in reply.text
        shutil.rmtree(keyed.roots / name)
    assert not marker.exists()
    keyed.streams.wait_for_a_round()
