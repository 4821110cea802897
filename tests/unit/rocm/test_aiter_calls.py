"""Every call of AITER's binds to the signature that it has; others are refused by name."""

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
from tests.unit.rocm.aiter_here import needs_aiter, signature
from tupelo_rocm import aiter_calls
from tupelo_rocm.aiter_calls import CALLS, AiterError, load, misfit


@needs_aiter
@pytest.mark.parametrize("name", CALLS)
def test_every_call_binds_to_the_real_signature(name: str) -> None:
    call = CALLS[name]
    real = signature(call.modules, name)
    assert misfit(real, call.arguments) == ""
    assert "eps" in misfit(real, (*call.arguments, "eps"))


def _other_release(monkeypatch: pytest.MonkeyPatch, fn: Any) -> None:
    """An AITER whose ``rms_norm`` is this, in the module of older releases."""
    module = ModuleType("aiter.ops.triton.rmsnorm")
    vars(module)["rms_norm"] = fn
    for name in [name for name in sys.modules if name.partition(".")[0] == "aiter"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("aiter", "aiter.ops", "aiter.ops.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(aiter_calls, "installed", lambda package: "0.1.99")


def test_a_function_is_found_in_an_older_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(input: Any, weight: Any, epsilon: float) -> Any:
        return input

    _other_release(monkeypatch, norm)
    assert load("rms_norm") is norm


def test_another_signature_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def norm(x: Any, weight: Any, eps: float) -> Any:
        return x

    _other_release(monkeypatch, norm)
    with pytest.raises(AiterError, match=r"rms_norm of amd-aiter 0\.1\.99 cannot be called"):
        load("rms_norm")


def test_a_function_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    _other_release(monkeypatch, None)
    with pytest.raises(AiterError, match=r"unified_attention .* cannot be imported"):
        load("unified_attention")


def test_without_the_package_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiter_calls, "installed", lambda package: "")
    monkeypatch.setattr(aiter_calls.importlib, "import_module", lambda name: 1 / 0)
    with pytest.raises(AiterError, match="amd-aiter is not installed"):
        load("rms_norm")


def test_arguments_are_listed_once() -> None:
    for call in CALLS.values():
        assert len(set(call.arguments)) == len(call.arguments)
        inspect.Signature(
            [inspect.Parameter(a, inspect.Parameter.KEYWORD_ONLY) for a in call.arguments]
        ).bind(**dict.fromkeys(call.arguments))
