"""``tupelo doctor``: what this machine offers, and for each backend why it is or isn't usable."""

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tupelo import __version__
from tupelo.commands import Command
from tupelo.config import environment
from tupelo.errors import BackendUnavailable

if TYPE_CHECKING:
    from tupelo.backend import Backend, Candidate

_LIBRARIES: Final = (
    "torch",
    "transformers",
    "numpy",
    "tokenizers",
    "safetensors",
    "gguf",
    "huggingface-hub",
    "msgspec",
    "pyzmq",
)


def examine() -> dict[str, Any]:
    """Everything that ``doctor`` prints, as JSON has it. Opens every installed backend."""
    import psutil

    memory = psutil.virtual_memory()
    cache = environment().cache_dir
    report: dict[str, Any] = {
        "tupelo": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory": {"free_bytes": memory.available, "total_bytes": memory.total},
        "packages": _packages(),
        "cache": {"path": str(cache), "size_bytes": _folder_bytes(cache)},
    }
    try:
        from tupelo.backend import find_backend, probe
    except (ImportError, OSError) as error:  # torch is broken: the very thing to report
        why = f"torch cannot be imported: {error}"
        return {**report, "chosen": None, "why_none": why, "backends": []}
    backends = [_backend(candidate) for candidate in probe()]
    try:
        return {**report, "chosen": find_backend().name, "why_none": "", "backends": backends}
    except BackendUnavailable as error:
        return {**report, "chosen": None, "why_none": str(error), "backends": backends}


def render(report: Mapping[str, Any]) -> str:
    """The report of ``examine`` for people."""
    memory, cache = report["memory"], report["cache"]
    lines = [
        f"Tupelo {report['tupelo']} · Python {report['python']} · {report['platform']} · "
        f"{report['cores']} cores · {_gib(memory['free_bytes'])} of "
        f"{_gib(memory['total_bytes'])} GiB memory free",
        f"Cache: {cache['path']} ({_gib(cache['size_bytes'])} GiB)",
        "",
        "Packages",
        *_columns(list(report["packages"].items())),
        "",
        "Backends",
    ]
    for backend in report["backends"]:
        lines += _backend_lines(backend, chosen=backend["name"] == report["chosen"])
    if report["why_none"]:
        lines += ["", f"No backend can be chosen: {report['why_none']}"]
    return "\n".join(lines)


def _packages() -> dict[str, str]:
    """Versions of our packages and of the libraries that they stand on."""
    ours = {
        name: dist.version
        for dist in distributions()
        if (name := dist.name or "").startswith("tupelo-")
    }
    versions = dict(sorted(ours.items()))
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _backend(candidate: "Candidate") -> dict[str, Any]:
    answer = {
        "name": candidate.name,
        "package": candidate.source,
        "usable": candidate.backend is not None,
        "reason": candidate.reason,
    }
    if candidate.backend is None:
        return answer
    backend = candidate.backend
    return {
        **answer,
        "device": backend.device,
        "hardware": backend.hardware,
        "contract": backend.contract,
        "memory": _memory(backend),
        "capabilities": asdict(backend.capabilities),
        "versions": dict(backend.versions),
        "notes": list(backend.notes),
        "kernels": _kernels(backend),
    }


def _memory(backend: "Backend") -> dict[str, int | str]:
    """Bytes free and in all; or what the device said instead, which must not hide the rest."""
    try:
        free, total = backend.runtime(backend.device).memory()
    except Exception as error:  # a vendor's runtime can raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"free_bytes": free, "total_bytes": total}


def _kernels(backend: "Backend") -> dict[str, list[dict[str, Any]]]:
    """For each op its kernels in the order in which they are tried; the reference is last."""
    from tupelo.ops import OPS, Tier

    order = list(Tier)
    table = {}
    for op in OPS:
        own = sorted((k for k in backend.kernels if k.op == op), key=lambda k: order.index(k.tier))
        rows: list[dict[str, Any]] = [
            {"name": k.name, "tier": str(k.tier), "max_rows": k.max_rows} for k in own
        ]
        table[op] = [*rows, {"name": "torch", "tier": str(Tier.REFERENCE), "max_rows": None}]
    return table


def _backend_lines(backend: Mapping[str, Any], *, chosen: bool) -> list[str]:
    head = f"  {backend['name']} ({backend['package']}): "
    if not backend["usable"]:
        return [f"{head}not usable: {backend['reason']}"]
    memory, capabilities = backend["memory"], backend["capabilities"]
    named = f" ({backend['hardware']})" if backend["hardware"] else ""
    room = f"memory unknown ({memory['error']})" if "error" in memory else _room(memory)
    lines = [
        head + ("usable, chosen" if chosen else "usable"),
        f"    device {backend['device']}{named}, {room}, contract {backend['contract']}",
        f"    types {', '.join(capabilities['dtypes'])}; schemes "
        f"{', '.join(capabilities['quant_schemes'])}; priority {capabilities['priority']}",
    ]
    lines += [f"    {name} {number}" for name, number in backend["versions"].items()]
    lines += [f"    {note}" for note in backend["notes"]]
    lines.append("    kernels, in the order in which they are tried:")
    rows = [(op, ", ".join(map(_kernel, kernels))) for op, kernels in backend["kernels"].items()]
    return lines + [f"    {line}" for line in _columns(rows)]


def _kernel(kernel: Mapping[str, Any]) -> str:
    limit = "" if kernel["max_rows"] is None else f" up to {kernel['max_rows']} rows"
    return f"{kernel['name']} ({kernel['tier']}{limit})"


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max((len(first) for first, _ in rows), default=0)
    return [f"  {first:<{width}}  {second}" for first, second in rows]


def _room(memory: Mapping[str, Any]) -> str:
    return f"{_gib(memory['free_bytes'])} of {_gib(memory['total_bytes'])} GiB free"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(args: Namespace) -> int:
    """Print the report; 1 where no backend can be chosen."""
    report = examine()
    print(json.dumps(report, indent=2) if args.json else render(report))
    return 0 if report["chosen"] else 1


COMMAND = Command("doctor", "what this machine offers, backend by backend", _configure, _run)
