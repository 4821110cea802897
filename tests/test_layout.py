"""The shape of the source tree: who may name a device, size budgets, bans, doors, light imports.

Every rule is a function from a file's path and syntax tree to findings; each is tried on a seeded
violation as well as on the tree.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE, SERVER = "packages/core/src/tupelo/", "packages/server/src/tupelo_server/"

MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 80
TOO_LONG = {
    "tests/kit/mutants.py": "a catalogue: one short bug after another, all of one shape",
}
"""``path`` or ``path::function`` over budget, and why it is better whole."""

# Top-level modules of core by wing; a new one must be placed here and in pyproject's contracts.
HOST = {"cache", "scheduler", "text", "grammar", "multimodal", "lang"}
DEVICE = {"ops", "backend", "layers", "models", "weights", "lora", "speculative", "triton"}
SHARED = {
    "batch",
    "checkpoint",
    "config",
    "errors",
    "heap",
    "pooling",
    "process",
    "request",
    "specs",
    "thinking",
}
ABOVE = {"__main__", "cli", "commands", "conformance", "engine", "launch_server"}

Finding = tuple[int, str]
Rule = Callable[[str, ast.Module], Iterator[Finding]]

_DEVICES = "cuda|rocm|hip|xpu|npu|tpu|mps|hpu|mlu|musa"
_DEVICE_WORD = re.compile(rf"(?<![a-z0-9])({_DEVICES})(?![a-z0-9])", re.IGNORECASE)
_DEVICE_ATTRIBUTE = re.compile(rf"(is_)?({_DEVICES})")
_UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}

# One module, or few, for each dangerous input: import or attribute -> where it may be.
DOORS: dict[str, tuple[str, ...]] = {
    "jinja2": (CORE + "text/template*",),
    "huggingface_hub": (CORE + "checkpoint/locate.py",),
    "llguidance": (CORE + "grammar/*",),
    "xgrammar": (CORE + "grammar/xgrammar_backend.py",),
    # templates.py hands the sandboxed renderer a cut-down copy; it reads no option there.
    "os.environ": (CORE + "config.py", CORE + "text/templates.py", SERVER + "config.py"),
    "os.getenv": (CORE + "config.py", SERVER + "config.py"),
    "subprocess": (
        CORE + "checkpoint/demo.py",
        CORE + "process.py",
        CORE + "conformance/processes.py",
        CORE + "lang/runtime.py",
    ),
    "asyncio.create_subprocess_exec": (CORE + "engine/client.py",),
    "multiprocessing": (),
    "httpx": (CORE + "checkpoint/locate.py", CORE + "lang/backends/http.py", SERVER + "*"),
    "zmq": (CORE + "engine/*",),
    "re2": (CORE + "text/stop_patterns.py",),
    "safetensors": (CORE + "checkpoint/*", CORE + "weights/*"),
    "gguf": (CORE + "checkpoint/*", CORE + "weights/*"),
    "yaml": (SERVER + "config_file.py",),
    **{name: () for name in ("requests", "urllib.request")},
}


def names_no_device(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Core and server say no device's name but "cpu", in strings or as attributes."""
    if not path.startswith((CORE, SERVER)):
        return
    docstrings = {id(node) for node in _docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = _DEVICE_WORD.search(node.value)
            if match and id(node) not in docstrings:
                yield node.lineno, f"device name {match[0]!r} in a string"
        elif isinstance(node, ast.Attribute) and _DEVICE_ATTRIBUTE.fullmatch(node.attr):
            yield node.lineno, f"attribute .{node.attr} belongs to one device"
        for name in _imported(node):
            parts = name.split(".")
            if parts[0] == "torch" and any(_DEVICE_ATTRIBUTE.fullmatch(p) for p in parts[1:]):
                yield node.lineno, f"import of {name}"


def keeps_to_budget(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Files and functions have a hard limit of lines; ``TOO_LONG`` lists exceptions.

    The arguments of a Triton kernel, two dozen pointers and sizes, do not count.
    """
    lines = max(
        (node.end_lineno or 0 for node in ast.walk(tree) if hasattr(node, "lineno")), default=0
    )
    if lines > MAX_FILE_LINES and path not in TOO_LONG:
        yield 1, f"{lines} lines; at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            kernel = any(ast.unparse(d).startswith("triton.") for d in node.decorator_list)
            first = node.body[0].lineno if kernel else node.lineno
            length = (node.end_lineno or node.lineno) - first + 1
            if length > MAX_FUNCTION_LINES and f"{path}::{node.name}" not in TOO_LONG:
                yield node.lineno, f"{node.name} has {length} lines; at most {MAX_FUNCTION_LINES}"


def runs_no_data(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Nothing unpickles, and nothing runs a string as code."""
    for node in ast.walk(tree):
        for name in _imported(node):
            if name.split(".")[0] in _UNPICKLERS:
                yield node.lineno, f"import of {name}"
            if name == "torch.load":
                yield node.lineno, "torch.load unpickles"
        if isinstance(node, ast.Attribute):
            if _dotted(node) == "torch.load":
                yield node.lineno, "torch.load unpickles"
            if node.attr.endswith(("_object", "_object_list")) and _dotted(node).startswith(
                ("torch.distributed.", "dist.")
            ):
                yield node.lineno, f"{node.attr} pickles"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "__import__"):
                yield node.lineno, f"call of {node.func.id}"
            if any(word.arg == "allow_pickle" for word in node.keywords):
                yield node.lineno, "allow_pickle"


def keeps_doors(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Each dangerous input comes in through its own modules (``DOORS``), in core and server."""
    if not path.startswith((CORE, SERVER)):
        return
    for node in ast.walk(tree):
        names = list(_imported(node))
        if isinstance(node, ast.Attribute):
            names.append(_dotted(node))
        for name in names:
            for thing, homes in DOORS.items():
                inside = name == thing or name.startswith(thing + ".")
                if inside and not any(fnmatch(path, home) for home in homes):
                    yield node.lineno, f"{thing} is for {', '.join(homes) or 'nobody here'}"


RULES: tuple[Rule, ...] = (names_no_device, keeps_to_budget, runs_no_data, keeps_doors)

SEEDED = [
    (names_no_device, CORE + "x.py", 'device = "cuda"'),
    (names_no_device, CORE + "x.py", 'device = f"xpu:{index}"'),
    (names_no_device, SERVER + "x.py", 'if name in ("cpu", "NPU"):\n    pass'),
    (names_no_device, CORE + "x.py", "import torch\ntorch.cuda.synchronize()"),
    (names_no_device, CORE + "x.py", "from torch import xpu"),
    (names_no_device, CORE + "x.py", "flag = tensor.is_cuda"),
    (keeps_to_budget, CORE + "x.py", "a = 1\n" * 501),
    (keeps_to_budget, "ci/x.py", "def f():\n" + "    a = 1\n" * 80),
    (keeps_to_budget, "ci/x.py", "@triton.jit\ndef f():\n" + "    a = 1\n" * 81),
    (runs_no_data, CORE + "x.py", "import pickle"),
    (runs_no_data, "ci/x.py", "from marshal import loads"),
    (runs_no_data, CORE + "x.py", "import torch\ntorch.load('f')"),
    (runs_no_data, CORE + "x.py", "from torch import load"),
    (runs_no_data, CORE + "x.py", "eval('1')"),
    (runs_no_data, CORE + "x.py", "exec('1')"),
    (runs_no_data, CORE + "x.py", "import numpy\nnumpy.load('f', allow_pickle=True)"),
    (runs_no_data, CORE + "x.py", "import torch\ntorch.distributed.all_gather_object(a, b)"),
    (keeps_doors, CORE + "cache/x.py", "import jinja2.sandbox"),
    (keeps_doors, SERVER + "x.py", "from huggingface_hub import snapshot_download"),
    (keeps_doors, CORE + "engine/x.py", "import os\nos.environ['A']"),
    (keeps_doors, CORE + "engine/x.py", "from os import environ"),
    (keeps_doors, SERVER + "x.py", "import os\nos.getenv('A')"),
    (keeps_doors, CORE + "scheduler/x.py", "import subprocess"),
    (keeps_doors, CORE + "text/x.py", "import urllib.request"),
    (keeps_doors, CORE + "engine/x.py", "import llguidance"),
    (keeps_doors, CORE + "models/x.py", "from safetensors.torch import load_file"),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_obeys(rule: Rule) -> None:
    findings = [
        f"{path}:{line}: {what}" for path, tree in _sources() for line, what in rule(path, tree)
    ]
    assert not findings, "\n".join(findings)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    SEEDED,
    ids=[f"{r.__name__}-{i}" for i, (r, _, _) in enumerate(SEEDED)],
)
def test_a_seeded_violation_is_found(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, ast.parse(source)))


def test_what_is_allowed_is_not_flagged() -> None:
    source = '"""Docstrings may say cuda."""\nimport re\nre.compile("cpu")\nmodel.eval()\n'
    tree = ast.parse(source)
    assert not [f for rule in RULES for f in rule(CORE + "x.py", tree)]
    door = ast.parse("import os\nos.environ.get('A')")
    assert not list(keeps_doors(CORE + "config.py", door))


def test_exceptions_are_needed() -> None:
    trees = dict(_sources())
    for entry in TOO_LONG:
        path = entry.partition("::")[0]
        assert path in trees, f"{entry} is gone; take it out of TOO_LONG"
        assert TOO_LONG[entry], f"{entry} has no reason"


def test_every_module_of_core_has_a_wing() -> None:
    present = {p.stem for p in (ROOT / CORE).iterdir() if _is_module(p)} - {"__init__"}
    assert present <= HOST | DEVICE | SHARED | ABOVE


def test_contracts_cover_every_module_of_core() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in settings["contracts"]}
    present = {p.stem for p in (ROOT / CORE).iterdir() if _is_module(p)}
    host = {f"tupelo.{name}" for name in present & (HOST | SHARED)}
    device = {f"tupelo.{name}" for name in present & DEVICE}
    assert set(contracts["host-without-torch"]["source_modules"]) == host
    only_host = host - {f"tupelo.{name}" for name in SHARED}
    assert set(contracts["host-not-device"]["source_modules"]) == only_host
    assert set(contracts["host-not-device"]["forbidden_modules"]) == device
    assert set(contracts["device-not-host"]["source_modules"]) == device
    assert set(contracts["device-not-host"]["forbidden_modules"]) == only_host


def test_host_wing_runs_without_torch() -> None:
    """Every module of the host wing and of what both wings share is imported for real."""
    modules = ["tupelo", "tupelo.cli", "tupelo.commands.options", "tupelo.launch_server"]
    for name in sorted(HOST | SHARED):
        place = ROOT / CORE / name
        files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
        for file in files:
            if file.is_file() and file.name != "__main__.py":
                relative = file.relative_to(ROOT / CORE.removesuffix("tupelo/")).with_suffix("")
                modules.append(".".join(relative.parts).removesuffix(".__init__"))
    assert "tupelo.cache" in modules
    assert _loaded_after(modules, ["torch", "triton"]) == []


@pytest.mark.parametrize("module", ["tupelo", "tupelo.cli"])
def test_light_imports(module: str) -> None:
    heavy = ["torch", "transformers", "numpy", "fastapi", "pydantic"]
    assert _loaded_after([module], heavy) == []


def _loaded_after(modules: list[str], heavy: list[str]) -> list[str]:
    """Which of ``heavy`` a fresh interpreter holds after importing ``modules``."""
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for top in ("packages", "ci", "benchmarks", "examples", "tests"):
        for file in sorted((ROOT / top).rglob("*.py")):
            if not {"build", ".venv", "node_modules"} & set(file.parts):
                yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """String constants that stand alone as statements: docstrings, of attributes too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that an import statement brings."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of an attribute chain; "" where it does not start with a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""
