"""Checks every call of a library's against what its wheel has, without loading it.

    python ci/xpu/schemas.py FOLDER OUT.json

FOLDER holds the wheels of vllm-xpu-kernels, whose ops' schemas are read from its binaries, and of
intel-extension-for-pytorch, whose functions' signatures are read from their source. Exit code 1 if
a call does not fit, or a wrong one is not caught.
"""

import ast
import inspect
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from tupelo_xpu import ipex_calls, vllm_calls

SCHEMAS = Path("tests/unit/xpu/schemas.txt")
SOURCES = {
    "rms_norm": "intel_extension_for_pytorch/llm/functional/fusions.py",
    "PagedAttention": "intel_extension_for_pytorch/llm/modules/mha_fusion.py",
}


def main() -> int:
    """Check both wheels."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    kernels, archived = (
        next(folder.glob(f"{n}-*.whl")) for n in ("vllm_xpu_kernels", "intel_extension_for_pytorch")
    )
    report = {
        kernels.name: [
            _op(kernels, *line.split("::")) for line in SCHEMAS.read_text().splitlines()
        ],
        archived.name: [_function(archived, name) for name in ipex_calls.CALLS],
    }
    out.write_text(json.dumps(report, indent=1))
    for wheel, calls in report.items():
        bad = [call for call in calls if not call["ok"]]
        print(f"{wheel}: {len(calls)} calls, {len(bad)} do not fit", *bad, sep="\n  ")
    listed = {call["name"] for call in report[kernels.name]}
    return (
        0
        if listed == set(vllm_calls.CALLS)
        and all(call["ok"] for calls in report.values() for call in calls)
        else 1
    )


def _op(wheel: Path, extension: str, schema: str) -> dict[str, Any]:
    """Whether the extension has this very schema, and our call fits it."""
    name = schema.partition("(")[0]
    call, found = vllm_calls.CALLS[name], _schemas(wheel, extension, name)
    real = [torch._C.parse_schema(text) for text in found]
    known = [[(a.name, a.has_default_value()) for a in one.arguments] for one in real]
    problems = [] if real == [torch._C.parse_schema(schema)] else [f"it has {found}"]
    problems += [] if extension == call.extension else [f"it is not in {call.extension}"]
    problems += [p for k in known if (p := vllm_calls.misfit(k, call.arguments))]
    caught = all(vllm_calls.misfit(k, (*call.arguments, "no_such_argument")) for k in known)
    problems += [] if caught else ["a wrong argument is not caught"]
    return {"name": name, "schema": found, "problems": problems, "ok": not problems}


def _schemas(wheel: Path, extension: str, name: str) -> list[str]:
    """Schemas of an op in the strings of an extension's binary."""
    with zipfile.ZipFile(wheel) as archive:
        binary = archive.read(f"vllm_xpu_kernels/{extension}.abi3.so")
    pattern = re.compile(rb"(?<=\0)" + name.encode() + rb"\([\x20-\x7e]*\) *-> [\x20-\x7e]+(?=\0)")
    return sorted({re.sub(r"\s+", " ", m.decode()).strip() for m in pattern.findall(binary)})


def _function(wheel: Path, name: str) -> dict[str, Any]:
    call = ipex_calls.CALLS[name]
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(SOURCES[call.path[0]]).decode())
    real = _signature(tree, call.path)
    problem = ipex_calls.misfit(real, call.arguments)
    problems = [problem] if problem else []
    if not ipex_calls.misfit(real, (*call.arguments, "no_such_argument")):
        problems.append("a wrong argument is not caught")
    return {"name": name, "signature": str(real), "problems": problems, "ok": not problems}


def _signature(tree: ast.Module, path: tuple[str, ...]) -> inspect.Signature:
    """Of a function, or a class' method less its first parameter, as the source has it."""
    node: Any = tree
    for part in path:
        node = next(n for n in node.body if getattr(n, "name", "") == part)
    plain = [*node.args.posonlyargs, *node.args.args]
    first = len(plain) - len(node.args.defaults)
    kinds = inspect.Parameter
    found = [
        kinds(a.arg, kinds.POSITIONAL_OR_KEYWORD, default=None if i >= first else kinds.empty)
        for i, a in enumerate(plain)
    ]
    return inspect.Signature(found[1:] if len(path) > 1 else found)


if __name__ == "__main__":
    raise SystemExit(main())
