"""Builds the kernels with the machine's own C++ compiler, once, into the user's cache folder.

The library's name carries a digest of everything that it depends on: the sources, the flags, the
compiler and the processor. Two processes may build at once: each writes its own temporary file and
renames it into place. Imports neither torch nor the rest of the backend.
"""

import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from tupelo.errors import BackendError

logger = logging.getLogger(__name__)

SOURCES = ("runtime.cpp", "elementwise.cpp", "linear.cpp", "attention.cpp")
HEADERS = ("kernels.h", "parallel.h", "vec.h", "gemm.h")
FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",  # results rely on multiply-add being one rounding everywhere or nowhere
)
COMPILERS = ("c++", "g++", "clang++")
BUILD_TIMEOUT_S = 300


def build(cache_dir: Path) -> Path:
    """The shared library for this machine, built if it isn't in the cache yet.

    Args:
        cache_dir: Tupelo's cache folder; the library goes into its folder ``native``.

    Raises:
        BackendError: there is no compiler, the build failed, or the folder cannot be used.
    """
    if platform.system() != "Linux":
        raise BackendError(f"the CPU kernels are built on Linux only, this is {platform.system()}")
    compiler = _find_compiler()
    source_dir = Path(__file__).parent
    folder = cache_dir / "native"
    target = folder / f"tupelo-cpu-{_digest(source_dir, compiler)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not target.exists():
            _compile(compiler, source_dir, target)
        _check_owner(target)
    except OSError as error:
        raise BackendError(f"cannot use the cache folder {folder}: {error}") from error
    return target


def _find_compiler() -> str:
    for name in COMPILERS:
        path = shutil.which(name)
        if path is not None:
            return path
    raise BackendError(f"no C++ compiler found on PATH (looked for {', '.join(COMPILERS)})")


def _digest(source_dir: Path, compiler: str) -> str:
    parts = [*FLAGS, _run([compiler, "--version"]), platform.machine(), _processor()]
    digest = hashlib.sha256("\0".join(parts).encode())
    for name in SOURCES + HEADERS:
        digest.update(name.encode() + b"\0" + (source_dir / name).read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """Model and instruction sets of the first processor, which ``-march=native`` follows."""
    wanted = ("model name", "flags", "Features", "CPU part")
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    first = text.split("\n\n", 1)[0]
    return "\n".join(line for line in first.splitlines() if line.startswith(wanted))


def _compile(compiler: str, source_dir: Path, target: Path) -> None:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        made = Path(scratch) / "kernels.so"
        _run([compiler, *FLAGS, "-o", str(made), *(str(source_dir / s) for s in SOURCES)])
        made.chmod(0o700)
        os.replace(made, target)
    logger.info("built the CPU kernels with %s in %.1f s", compiler, time.monotonic() - start)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"{command[0]} did not run: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[:3]
        raise BackendError(f"{command[0]} failed ({done.returncode}): {' | '.join(last)}")
    return done.stdout


def _check_owner(path: Path) -> None:
    """Refuse a library that another user could have put there: loading it runs its code."""
    for item in (path, path.parent):
        info = item.stat()
        if info.st_uid not in (os.getuid(), 0) or info.st_mode & stat.S_IWOTH:
            raise BackendError(
                f"{item} belongs to user {info.st_uid} with mode {stat.filemode(info.st_mode)}; "
                f"it must be yours and not writable by others"
            )
