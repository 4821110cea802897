"""Every call of a library's ops fits the schema that it has; others are refused by name."""

import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import library as torch_library
from tupelo_xpu import ipex_calls, vllm_calls
from tupelo_xpu.vllm_calls import CALLS, LibraryError, load, misfit

SCHEMAS = {
    schema.name: schema
    for line in Path(__file__).with_name("schemas.txt").read_text().splitlines()
    for schema in [torch._C.parse_schema(line.partition("::")[2])]
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_fits_the_schema_of_the_release(name: str) -> None:
    known = [(a.name, a.has_default_value()) for a in SCHEMAS[name].arguments]
    assert misfit(known, CALLS[name].arguments) == ""
    assert misfit(known, (*CALLS[name].arguments, "eps")) == "takes no eps"
    assert CALLS[name].arguments[-1] in misfit(known, CALLS[name].arguments[:-1])


def test_what_has_a_default_may_be_left_out() -> None:
    assert misfit([("x", False), ("y", True)], ["x"]) == ""
    assert misfit([("x", False)], ["y"]) == "takes no y and needs x"


def test_without_the_package_nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_calls, "installed", lambda package: "")
    monkeypatch.setattr(vllm_calls.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(LibraryError, match="vllm-xpu-kernels is not installed"):
        load("rms_norm")


def test_an_extension_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libsycl.so.9: cannot open shared object file")

    monkeypatch.setattr(vllm_calls, "installed", lambda package: "0.1.99")
    monkeypatch.setattr(vllm_calls.importlib, "import_module", broken)
    with pytest.raises(LibraryError, match=r"rms_norm of vllm-xpu-kernels 0\.1\.99 .* libsycl"):
        load("rms_norm")


def test_another_schema_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    library = torch_library.Library("_moe_C", "FRAGMENT")
    library.define("moe_gather(Tensor! output, Tensor moe_output, Tensor weights) -> ()")
    monkeypatch.setattr(vllm_calls, "installed", lambda package: "0.1.1")
    monkeypatch.setattr(vllm_calls.importlib, "import_module", lambda name: None)
    with pytest.raises(LibraryError, match=r"takes no topk_weights.* and needs weights"):
        load("moe_gather")
    with pytest.raises(LibraryError, match=r"topk_softmax .* cannot be loaded"):
        load("topk_softmax")


def _archived(monkeypatch: pytest.MonkeyPatch, fn: Any) -> None:
    module = ModuleType("intel_extension_for_pytorch.llm.functional")
    vars(module)["rms_norm"] = fn
    for name in ("intel_extension_for_pytorch", "intel_extension_for_pytorch.llm"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(ipex_calls, "installed", lambda package: "2.8.0")


def test_the_archived_librarys_functions_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(hidden_states: Any, weight: Any, eps: float) -> Any:
        return hidden_states

    _archived(monkeypatch, norm)
    assert ipex_calls.load("rms_norm") is norm
    _archived(monkeypatch, lambda x, weight, eps: x)
    with pytest.raises(LibraryError, match=r"rms_norm of intel-extension.* cannot be called"):
        ipex_calls.load("rms_norm")
    _archived(monkeypatch, None)
    with pytest.raises(LibraryError, match=r"flash_attn_varlen_func .* cannot be imported"):
        ipex_calls.load("flash_attn_varlen_func")


def test_arguments_are_listed_once() -> None:
    for call in (*CALLS.values(), *ipex_calls.CALLS.values()):
        inspect.Signature(
            [inspect.Parameter(a, inspect.Parameter.KEYWORD_ONLY) for a in call.arguments]
        )
