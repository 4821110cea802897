"""The backend's answer on a machine without a GPU, its options, and its light import."""

import subprocess
import sys

import pytest
import torch
import tupelo_cuda
from tupelo_cuda.options import read_options

from tupelo.backend import Backend, Unavailable
from tupelo.errors import ConfigError


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
def test_unavailable_says_what_is_missing() -> None:
    answer = tupelo_cuda.backend()
    assert isinstance(answer, Unavailable)
    assert "torch" in answer.reason
    assert "install" in answer.reason or "nvidia-smi" in answer.reason


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="this machine has no GPU")
def test_the_record_keeps_the_contract() -> None:
    answer = tupelo_cuda.backend()
    assert isinstance(answer, Backend)
    answer.check()


def test_importing_it_loads_no_vendor_library() -> None:
    code = (
        "import sys, tupelo_cuda; print([m for m in ('flashinfer', 'triton') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ATTENTION", "GRAPHS", "LINEAR"):
        monkeypatch.delenv(f"TUPELO_CUDA_{name}", raising=False)
    options = read_options()
    assert (options.attention, options.graphs, options.measured_linear) == ("auto", True, True)
    assert options.prompt_graphs
    monkeypatch.setenv("TUPELO_CUDA_ATTENTION", "triton")
    monkeypatch.setenv("TUPELO_CUDA_GRAPHS", "0")
    assert read_options().attention == "triton"
    assert not read_options().graphs
    assert not read_options().prompt_graphs
    monkeypatch.setenv("TUPELO_CUDA_GRAPHS", "decode")
    assert read_options().graphs
    assert not read_options().prompt_graphs
    monkeypatch.setenv("TUPELO_CUDA_ATTENTION", "magic")
    with pytest.raises(ConfigError, match=r"TUPELO_CUDA_ATTENTION.*magic.*flashinfer"):
        read_options()
