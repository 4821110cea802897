"""Holds our calls of FlashInfer against its real signatures, without importing it.

    python ci/cuda/bind.py FLASHINFER.whl REPORT.json

FlashInfer needs a GPU to run. Its source tells what its wrappers' methods take, which attributes
they have, and how many arguments they pass to the planner in C++ (which we call as they do); the
backend's ``Planner`` runs against stand-ins that accept exactly that. It shows no numbers.
"""

import ast
import inspect
import json
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tupelo_cuda import flashinfer_plan

from tupelo.backend import TorchRuntime
from tupelo.backend.staging import StagingRing
from tupelo.specs import AttentionSpec

PAGED, FRESH = "BatchPrefillWithPagedKVCacheWrapper", "BatchPrefillWithRaggedKVCacheWrapper"
KINDS = ((None, None), (512, 30.0))
"""Windows and soft caps of layers."""


class Wheel:
    """FlashInfer's source.

    Attributes:
        calls: of each function or method, how often it was called with arguments that it takes.
    """

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as wheel:
            self._prefill = ast.parse(wheel.read("flashinfer/prefill.py"))
            self._modules = ast.parse(wheel.read("flashinfer/jit/attention/modules.py"))
        self.calls: dict[str, int] = {}

    def bind(self, name: str, function: ast.FunctionDef, *args: Any, **kwargs: Any) -> None:
        """Count a call; TypeError if the function does not take these arguments."""
        signature(function).bind(*args, **kwargs)
        self.calls[name] = self.calls.get(name, 0) + 1

    def build_module(self, *key: Any) -> Any:
        """In the place of ``get_batch_prefill_module``, which passes its key on to another."""
        uri = next(n for n in functions(self._modules) if n.name == "get_batch_prefill_uri")
        self.bind("get_batch_prefill_module", uri, *key)

    def wrapper(self, name: str) -> type:
        """A class with the attributes and signatures of one of FlashInfer's, which does nothing."""
        node = next(n for n in self._prefill.body if isinstance(n, ast.ClassDef) and n.name == name)
        methods = {f.name: f for f in functions(node)}  # of overloads the last, which is the one
        known = {
            n.attr
            for n in ast.walk(node)
            if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"
        }
        counts = planner_counts(methods["plan"])
        whole = self

        class StandIn:
            def __setattr__(self, attribute: str, value: object) -> None:
                assert attribute in known, f"{name} has no {attribute}"
                object.__setattr__(self, attribute, value)

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                whole.bind(f"{name}.__init__", methods["__init__"], self, *args, **kwargs)
                self._cached_module = types.SimpleNamespace(plan=self._plan)
                self._backend = kwargs["backend"]

            def plan(self, *args: Any, **kwargs: Any) -> None:
                whole.bind(f"{name}.plan", methods["plan"], self, *args, **kwargs)

            def run(self, *args: Any, **kwargs: Any) -> None:
                whole.bind(f"{name}.run", methods["run"], self, *args, **kwargs)

            def _plan(self, *args: Any) -> list[int]:
                wanted = counts[self._backend]
                assert len(args) == wanted, f"the planner takes {wanted}, got {len(args)}"
                whole.calls["planner"] = whole.calls.get("planner", 0) + 1
                return []

        return StandIn


def functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """The functions right within a module or class."""
    yield from (n for n in ast.iter_child_nodes(node) if isinstance(n, ast.FunctionDef))


def signature(function: ast.FunctionDef) -> inspect.Signature:
    """What a function takes; which of its parameters have defaults, not which."""
    found, args = [], function.args
    positional = [*args.posonlyargs, *args.args]
    required = len(positional) - len(args.defaults)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter.empty
    for i, arg in enumerate(positional):
        default = empty if i < required else None
        found.append(inspect.Parameter(arg.arg, kind, default=default))
    if args.vararg:
        found.append(inspect.Parameter(args.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    for arg, value in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        default = empty if value is None else None
        found.append(inspect.Parameter(arg.arg, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature(found)


def planner_counts(plan: ast.FunctionDef) -> dict[str, int]:
    """How many arguments FlashInfer itself passes to its planner, by kernel family."""
    last: list[ast.expr] = []
    more = 0
    for node in ast.walk(plan):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "args":
            assert isinstance(node.value, ast.List)
            last = node.value.elts
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "args.append":
            more += 1
    assert last
    return {"fa3": len(last), "fa2": len(last) + more}


def drive(capability: tuple[int, int], window: int | None, soft_cap: float | None) -> None:
    """One planner's whole life, on the CPU, for a GPU of a compute capability."""
    runtime = TorchRuntime("cpu")
    spec = AttentionSpec(
        group=0,
        num_heads=4,
        num_kv_heads=2,
        head_dim=128,
        scale=0.1,
        window=window,
        soft_cap=soft_cap,
    )
    kind = flashinfer_plan.Kind(spec, torch.bfloat16, 16)
    host = np.array([0, 3, 7], np.int32)
    ends = torch.from_numpy(host)
    q, k = torch.empty(7, 4, 128), torch.empty(7, 2, 128)
    with (
        mock.patch.object(torch.cuda, "get_device_capability", return_value=capability),
        mock.patch.object(torch.cuda, "current_stream", mock.MagicMock()),
    ):
        flashinfer_plan.build_modules([kind], runtime.device)
        ring = StagingRing(runtime, flashinfer_plan.PLAN_BYTES, 4)
        planner = flashinfer_plan.Planner(kind, flashinfer_plan.Workspaces(runtime.device, ring))
        planner.plan_pages(host, host, np.diff(host), (ends, ends, ends, ends[1:]))
        planner.run_pages(q, k, k, q)
        planner.plan_fresh(host, ends)
        planner.run_fresh(q, k, k, q)


def main() -> int:
    """Drive the planner for Hopper and for another GPU; a call that does not bind raises."""
    wheel = Wheel(Path(sys.argv[1]))
    prefill = types.ModuleType("flashinfer.prefill")
    prefill.__dict__.update(
        {name: wheel.wrapper(name) for name in (PAGED, FRESH)},
        get_batch_prefill_module=wheel.build_module,
    )
    with mock.patch.dict(sys.modules, {"flashinfer.prefill": prefill}):
        for capability in ((9, 0), (8, 0)):
            for window, soft_cap in KINDS:
                drive(capability, window, soft_cap)
    used = [f"{c}.{m}" for c in (PAGED, FRESH) for m in ("__init__", "plan", "run")]
    absent = [n for n in (*used, "planner", "get_batch_prefill_module") if n not in wheel.calls]
    result = {"wheel": Path(sys.argv[1]).name, "calls": wheel.calls, "passed": not absent}
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1), "utf-8")
    print(json.dumps(result))
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
