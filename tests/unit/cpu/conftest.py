"""The native kernels, built once for all tests here."""

from collections.abc import Iterator

import pytest
import torch

from tupelo_cpu.native.bindings import NativeLibrary
from tupelo_cpu.native.builder import build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> NativeLibrary:
    """A freshly built library."""
    return NativeLibrary(build(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Two threads, so that what is shared between threads is exercised; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
