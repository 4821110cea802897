"""Building, caching and loading the library; what happens where that is impossible."""

import logging
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tupelo.errors import BackendError
from tupelo_cpu.elementwise import ElementwiseOps
from tupelo_cpu.native.bindings import NativeLibrary, native_library
from tupelo_cpu.native.builder import build


def test_second_build_takes_the_library_from_the_cache(tmp_path: Path) -> None:
    first = build(tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build(tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_without_a_compiler_it_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        library, note = native_library(tmp_path / "cache")
    assert library is None
    assert "no C++ compiler" in note
    assert len(caplog.records) == 1
    assert "costs speed only" in caplog.text


def test_a_compiler_that_fails_is_an_error_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "c++"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "bad flag" >&2\nexit 3\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BackendError, match=r"failed \(3\): bad flag"):
        build(tmp_path / "cache")
    assert list((tmp_path / "cache" / "native").iterdir()) == []


def test_a_library_that_others_may_write_is_refused(tmp_path: Path) -> None:
    path = build(tmp_path)
    path.chmod(0o777)
    with pytest.raises(BackendError, match="writable by others"):
        build(tmp_path)


def test_a_broken_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"not a library")
    with pytest.raises(BackendError, match="cannot load"):
        NativeLibrary(path)


def _build(folder: Path) -> str:
    return str(build(folder))


def test_two_processes_building_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.map(_build, [tmp_path, tmp_path], chunksize=1)
    assert paths[0] == paths[1]
    ops = ElementwiseOps(NativeLibrary(Path(paths[0])))
    assert ops.rms_norm(torch.ones(2, 8), torch.ones(8), 0.0).tolist() == [[1.0] * 8] * 2


CHECK_ONE_POOL = """
import os, sys
from pathlib import Path
import torch
from tupelo_cpu.elementwise import ElementwiseOps
from tupelo_cpu.native.bindings import NativeLibrary

torch.set_num_threads(3)
x = torch.randn(2000, 600)
torch.nn.functional.silu(x)
before = len(os.listdir("/proc/self/task"))
ops = ElementwiseOps(NativeLibrary(Path(sys.argv[1])))
ops.silu_mul(x)
after = len(os.listdir("/proc/self/task"))
lines = Path("/proc/self/maps").read_text().splitlines()
runtimes = {l.split()[-1] for l in lines if "gomp" in l or "iomp" in l or "libomp" in l}
print(before, after, len(runtimes))
"""


def test_kernels_run_on_the_pool_of_torch(library: NativeLibrary) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK_ONE_POOL, str(library.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    before, after, runtimes = (int(n) for n in done.stdout.split())
    assert after == before  # no thread was added to those that torch had started
    assert runtimes == 1
