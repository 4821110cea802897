"""One door for each dangerous input, and nothing that runs what it is given: read off the source.

``tests/test_layout.py`` keeps the doors of libraries (who may import Jinja2, llguidance,
safetensors …). Here are those of calls. Each rule is tried on seeded violations too.
"""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pydantic
import pytest
from tests.test_layout import CORE, SERVER, Finding, Rule, _dotted, _imported, _sources

import tupelo_server.app  # declares every body
from tupelo_server.protocol.fields import Body

SHIPPED = "packages/"

NEVER: dict[str, str] = {
    "os.system": "runs a shell",
    "os.popen": "runs a shell",
    "subprocess.getoutput": "runs a shell",
    "subprocess.getstatusoutput": "runs a shell",
    "torch.jit.load": "unpickles",
    "torch.hub.load": "downloads code and runs it",
    "torch.ops.load_library": "runs a library",
    "torch.package.PackageImporter": "unpickles",
    "numpy.load": "may unpickle",
    "np.load": "may unpickle",
    "pandas.read_pickle": "unpickles",
    "shutil.unpack_archive": "writes wherever an archive says",
    "tempfile.mktemp": "names a file that others may make first",
    "code.interact": "is a shell",
    "runpy.run_path": "runs a file",
    "runpy.run_module": "runs a module by name",
    "importlib.util.spec_from_file_location": "imports a file",
    "importlib.machinery.SourceFileLoader": "imports a file",
    "ssl._create_unverified_context": "trusts anybody",
    "yaml.load": "makes any object",
    "yaml.unsafe_load": "makes any object",
    "yaml.full_load": "makes objects",
}
"""Calls that nothing we ship makes, and why."""

NEVER_METHODS = {
    "recv_pyobj": "unpickles",
    "send_pyobj": "pickles",
    "extractall": "writes wherever an archive says",
    "__subclasses__": "finds what was hidden",
}

PLACES: dict[str, tuple[str, ...]] = {
    # Messages between processes; grammars have a process of their own, which gets and gives few.
    "msgspec.msgpack": (CORE + "engine/messages.py", CORE + "grammar/*.py"),
    # What a client or a file sends as JSON; of files, each reader says what it takes.
    "msgspec.json": (
        SERVER + "wire.py",
        SERVER + "protocol/messages.py",
        CORE + "engine/worker.py",
        CORE + "engine/client.py",
    ),
    # The model's tokenizer is other people's data too.
    "tokenizers": (CORE + "text/*.py",),
    "TemplateRenderer": (
        CORE + "text/templates.py",
        CORE + "lang/backends/engine.py",
        SERVER + "loader.py",
        SERVER + "prompts.py",
    ),
    # Modules by name: from tables of ours, or as an operator names a backend to test.
    "importlib.import_module": (
        CORE + "__init__.py",
        CORE + "models/registry.py",
        CORE + "checkpoint/families/__init__.py",
        CORE + "conformance/target.py",
        "packages/backend-*/*",  # their vendors' modules
    ),
    # Libraries by path: kernels that were built on this machine; the C library itself.
    "ctypes.CDLL": (CORE + "backend/runtime.py", "packages/backend-*/*"),
    "load_weights": (CORE + "engine/*.py", CORE + "weights/*.py"),
    "open_checkpoint": (
        CORE + "checkpoint/*.py",
        CORE + "engine/*.py",
        CORE + "commands/*.py",
        SERVER + "loader.py",
    ),
}
"""Where alone a name may be used, in what we ship."""

_BOUNDS = {"ge", "gt", "le", "lt", "multiple_of", "allow_inf_nan"}


def runs_nothing_it_is_given(path: str, tree: ast.Module) -> Iterator[Finding]:
    """No shell, no loader of code, no archive that writes where it likes."""
    if not path.startswith(SHIPPED):
        return
    for node in ast.walk(tree):
        for name in _imported(node):
            if name in NEVER:
                yield node.lineno, f"{name} {NEVER[name]}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Attribute) and _dotted(node) in NEVER:
            yield node.lineno, f"{_dotted(node)} {NEVER[_dotted(node)]}"
        if isinstance(node, ast.Attribute) and node.attr in NEVER_METHODS:
            yield node.lineno, f"{node.attr} {NEVER_METHODS[node.attr]}"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("compile", "globals"):
                yield node.lineno, f"call of {node.func.id}"
            if any(k.arg == "shell" and not _is(k.value, False) for k in node.keywords):
                yield node.lineno, "a shell runs it"
            if any(k.arg == "trust_remote_code" for k in node.keywords):
                yield node.lineno, "code that a model brings"
            if any(k.arg == "verify" and _is(k.value, False) for k in node.keywords):
                yield node.lineno, "trusts anybody"


def keeps_to_its_place(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Names of ``PLACES`` are used there and nowhere else."""
    if not path.startswith(SHIPPED):
        return
    for node in ast.walk(tree):
        names = [name.rpartition(".")[2] for name in _imported(node)] + list(_imported(node))
        if isinstance(node, ast.Attribute):
            names.append(_dotted(node))
        for thing, places in PLACES.items():
            used = any(name == thing or name.startswith(thing + ".") for name in names)
            if used and not any(fnmatch(path, place) for place in places):
                yield node.lineno, f"{thing} is for {', '.join(places)}"  # type: ignore[attr-defined]


def bounds_stand_in_one_table(path: str, tree: ast.Module) -> Iterator[Finding]:
    """Numbers of requests are bounded in ``tupelo.request``, not where a body is declared."""
    if not path.startswith(SERVER + "protocol/"):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _dotted(node.func) in ("Field", "pydantic.Field"):
            for word in node.keywords:
                if word.arg in _BOUNDS:
                    yield node.lineno, f"{word.arg} belongs into tupelo/request.py"
        for name in _imported(node):
            if name.startswith(("pydantic.con", "annotated_types.")):
                yield node.lineno, f"{name} belongs into tupelo/request.py"  # type: ignore[attr-defined]


def time_is_not_the_clock_on_the_wall(path: str, tree: ast.Module) -> Iterator[Finding]:
    """``time.time`` jumps: nothing that measures or waits uses it, only what tells a date."""
    told = ("state.py", "routes/*.py", "protocol/*.py")
    told = (*(SERVER + place for place in told), CORE + "conformance/*")
    if not path.startswith((CORE, SERVER)) or any(fnmatch(path, place) for place in told):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _dotted(node) == "time.time":
            yield node.lineno, "time.time() jumps; time.monotonic() does not"


RULES: tuple[Rule, ...] = (
    runs_nothing_it_is_given,
    keeps_to_its_place,
    bounds_stand_in_one_table,
    time_is_not_the_clock_on_the_wall,
)

SEEDED = [
    (runs_nothing_it_is_given, CORE + "x.py", "import os\nos.system('ls')"),
    (runs_nothing_it_is_given, CORE + "x.py", "from os import system"),
    (runs_nothing_it_is_given, CORE + "x.py", "socket.recv_pyobj()"),
    (runs_nothing_it_is_given, CORE + "x.py", "compile('1', 'a', 'eval')"),
    (runs_nothing_it_is_given, CORE + "x.py", "subprocess.run('ls', shell=True)"),
    (runs_nothing_it_is_given, CORE + "x.py", "subprocess.run('ls', shell=flag)"),
    (runs_nothing_it_is_given, CORE + "x.py", "Auto.from_pretrained(a, trust_remote_code=b)"),
    (runs_nothing_it_is_given, SERVER + "x.py", "httpx.get(url, verify=False)"),
    (runs_nothing_it_is_given, CORE + "x.py", "archive.extractall(folder)"),
    (runs_nothing_it_is_given, CORE + "x.py", "import numpy as np\nnp.load(file)"),
    (keeps_to_its_place, SERVER + "x.py", "import msgspec\nmsgspec.msgpack.decode(data)"),
    (keeps_to_its_place, SERVER + "routes/x.py", "import msgspec\nmsgspec.json.decode(data)"),
    (keeps_to_its_place, CORE + "cache/x.py", "from tokenizers import Tokenizer"),
    (keeps_to_its_place, SERVER + "x.py", "from tupelo.text.templates import TemplateRenderer"),
    (keeps_to_its_place, SERVER + "x.py", "from importlib import import_module"),
    (keeps_to_its_place, SERVER + "x.py", "import importlib\nimportlib.import_module(name)"),
    (keeps_to_its_place, CORE + "text/x.py", "import ctypes\nctypes.CDLL(path)"),
    (keeps_to_its_place, SERVER + "x.py", "from tupelo.checkpoint import open_checkpoint"),
    (bounds_stand_in_one_table, SERVER + "protocol/x.py", "a: int = Field(ge=0)"),
    (bounds_stand_in_one_table, SERVER + "protocol/x.py", "from pydantic import conint"),
    (time_is_not_the_clock_on_the_wall, CORE + "engine/x.py", "import time\ntime.time()"),
]


@pytest.fixture(scope="module")
def sources() -> list[tuple[str, ast.Module]]:
    """What we ship: paths and syntax trees."""
    return [(path, tree) for path, tree in _sources() if path.startswith(SHIPPED)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_obeys(rule: Rule, sources: list[tuple[str, ast.Module]]) -> None:
    findings = [
        f"{path}:{line}: {what}" for path, tree in sources for line, what in rule(path, tree)
    ]
    assert not findings, "\n".join(findings)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    SEEDED,
    ids=[f"{r.__name__}-{i}" for i, (r, _, _) in enumerate(SEEDED)],
)
def test_a_seeded_violation_is_found(rule: Rule, path: str, source: str) -> None:
    assert list(rule(path, ast.parse(source)))


def test_every_place_exists(sources: list[tuple[str, ast.Module]]) -> None:
    paths = [path for path, _ in sources]
    for thing, places in PLACES.items():
        for place in places:
            assert any(fnmatch(path, place) for path in paths), f"{thing}: {place} is gone"


def all_bodies(root: type[Body] = Body) -> Iterator[type[Body]]:
    for body in root.__subclasses__():
        yield body
        yield from all_bodies(body)


@pytest.mark.parametrize("body", sorted(all_bodies(), key=lambda b: b.__name__))
def test_a_flood_of_wrong_items_costs_one_error(body: type[Body]) -> None:
    """Every list of a body stops at its first bad item, and no mapping looks at its values: else
    a million bad items are a million errors of a thousand bytes each."""
    found = list(_collections(body.__pydantic_core_schema__))
    for part in found:
        if part["type"] == "dict":
            assert part.get("values_schema", {"type": "any"})["type"] == "any", part
        else:
            assert part.get("fail_fast") is True, part


def test_bodies_are_strict() -> None:
    bodies = set(all_bodies())
    assert len(bodies) > 10
    assert tupelo_server.app.ROUTERS
    for body in bodies:
        assert body.model_config["strict"]
        assert body.model_config["extra"] == "forbid"
    loose = [m for m in _models(pydantic.BaseModel) if m not in bodies and m is not Body]
    assert not loose, "a body of ours is a Body"


def _models(root: type[pydantic.BaseModel]) -> Iterator[type[pydantic.BaseModel]]:
    """Models that our server declares."""
    for model in root.__subclasses__():
        if model.__module__.startswith("tupelo"):
            yield model
        yield from _models(model)


def _collections(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "set", "frozenset", "tuple", "dict", "generator"):
            yield schema
        for value in schema.values():
            yield from _collections(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _collections(value)


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_code_of_ours_stands_where_a_model_s_could() -> None:
    """The engine and the workers start without the working directory in the search path."""
    root = Path(__file__).resolve().parents[2]
    for file in ("engine/client.py", "text/templates.py", "grammar/trial.py"):
        source = (root / CORE / file).read_text()
        assert '"-P"' in source, file
