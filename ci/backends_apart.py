"""Shows that backends leave core, and each other, alone where their vendors' libraries are absent.

    python ci/backends_apart.py [MODULE:FUNCTION ...]      default: all that are installed

For each, in this one process: its module is imported and asked for the backend. The import
loads no vendor's library; the answer is ``Unavailable`` with a reason, in less than a second of
this process's time; and no module of core is changed by either: not its file, its attributes,
its classes' attributes or a function's code, and not what its dicts, lists and sets hold.
Prints one JSON a backend; 1 if any of this does not hold. The CPU's backend is usable anywhere;
the rest is asked of it too.
"""

import hashlib
import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

import tupelo
from tupelo.backend import Unavailable
from tupelo.backend.discovery import GROUP

LIMIT_S = 1.0
VENDORS = (
    *("aiter", "flashinfer", "intel_extension_for_pytorch", "jax", "torch_npu", "torch_tpu"),
    *("torch_xla", "torchax", "triton", "vllm_xpu_kernels"),
)
USABLE_ANYWHERE = "tupelo_cpu"


def main() -> int:
    """Ask all; 1 if one of them is not as it should be."""
    sources = sys.argv[1:] or [point.value for point in entry_points(group=GROUP)]
    modules = list(core())
    torch.zeros(1)  # what torch loads on first use is not the backends' doing
    bad = 0
    for source in sorted(sources):
        found = ask(source, modules)
        bad += not found["passed"]
        print(json.dumps(found), flush=True)
    return 1 if bad or not sources else 0


def ask(source: str, modules: list[ModuleType]) -> dict[str, Any]:
    """One backend: what it answered, in how many seconds, and what is wrong with that."""
    before = {module.__name__: fingerprint(module) for module in modules}
    name, _, function = source.partition(":")
    loaded = {vendor for vendor in VENDORS if vendor in sys.modules}
    factory = getattr(importlib.import_module(name), function)
    vendors = [vendor for vendor in VENDORS if vendor in sys.modules and vendor not in loaded]
    began = time.process_time()
    answer = factory()
    seconds = time.process_time() - began
    after = {module.__name__: fingerprint(module) for module in modules}
    changed = [module for module, print_ in after.items() if print_ != before[module]]
    wrong = [f"importing it loaded {', '.join(vendors)}"] if vendors else []
    wrong += [f"it changed {', '.join(changed)}"] if changed else []
    reason = answer.reason if isinstance(answer, Unavailable) else None
    if name != USABLE_ANYWHERE:
        wrong += [] if reason else ["it does not say why it is unavailable"]
        wrong += [f"it took {seconds:.1f} s"] if seconds > LIMIT_S else []
    return {
        "backend": source,
        "reason": reason,
        "seconds": round(seconds, 3),
        "core_modules": len(modules),
        "wrong": wrong,
        "passed": not wrong,
    }


def core() -> Iterator[ModuleType]:
    """Every module of core that loads without a vendor's library."""
    for found in pkgutil.walk_packages(tupelo.__path__, "tupelo."):
        if found.name.rpartition(".")[2] == "__main__":
            continue
        try:
            yield importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "tupelo":
                raise


def fingerprint(module: ModuleType) -> str:
    """SHA-256 of what a module is: its file, and what hangs on its names in this process."""
    total = hashlib.sha256()
    file = getattr(module, "__file__", None)
    total.update(Path(file).read_bytes() if file else b"")
    for name, value in sorted(vars(module).items()):
        if name == "__warningregistry__":
            continue
        total.update(f"{name} {_identity(value)}\n".encode())
        if isinstance(value, type) and value.__module__ == module.__name__:
            for key, member in sorted(vars(value).items()):
                total.update(f"{name}.{key} {_identity(member)}\n".encode())
    return total.hexdigest()


def _identity(value: object) -> str:
    """Which object it is; of a function also its code, of a container what it holds."""
    if isinstance(value, FunctionType):
        return f"{id(value)} {id(value.__code__)} {id(value.__defaults__)}"
    if isinstance(value, dict):
        return f"{id(value)} {[(id(k), id(v)) for k, v in value.items()]}"
    if isinstance(value, list | set | frozenset | tuple):
        return f"{id(value)} {sorted(id(item) for item in value)}"
    return str(id(value))


if __name__ == "__main__":
    sys.exit(main())
