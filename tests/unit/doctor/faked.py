"""Environments that ``tupelo doctor`` may meet, and making this process look like one of them.

What can be had for real is: packages lie in a folder on the path with their metadata, programs in
the only folder of ``PATH``. What cannot (GPUs, device nodes) is patched where it is asked for.
"""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import invalidate_caches
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tupelo.backend import discovery

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """One environment and what must be said of it.

    Attributes:
        id: of the test.
        backend: whose lines are looked at; "" for the whole of what is printed.
        says: what stands there: the first thing that is wrong, and its remedy.
        chosen: the backend that serves nevertheless; "" for none.
        packages: distributions that are installed, and their versions.
        modules: what can be imported, and its source.
        absent: modules that cannot be found.
        patches: what has another value, by its dotted path.
        variables: of the environment.
        programs: scripts that are all of ``PATH``; None leaves that as it is.
    """

    id: str
    backend: str
    says: str
    chosen: str = "cpu"
    packages: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    patches: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, str] | None = None


def installed_backends() -> list[EntryPoint]:
    """Those of every package of the workspace."""
    points = []
    for file in sorted((ROOT / "packages").glob("backend-*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        for name, value in project["entry-points"][discovery.GROUP].items():
            points.append(EntryPoint(name, value, discovery.GROUP))
    return points


def pretend(environment: Environment, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make this process look like ``environment`` until the test ends."""
    points = installed_backends()
    monkeypatch.setattr(discovery, "entry_points", lambda group: points)
    monkeypatch.delenv("TUPELO_BACKEND", raising=False)
    for name, value in environment.variables.items():
        monkeypatch.setenv(name, value)
    if environment.programs is not None:
        monkeypatch.setenv("PATH", str(_programs(environment.programs, folder / "bin")))
        monkeypatch.setenv("TUPELO_CACHE", str(folder / "cache"))
    for name in {m.split(".")[0] for m in environment.modules}:
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
    for name in environment.absent:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.syspath_prepend(str(_site(environment, folder / "site")))
    invalidate_caches()
    for path, value in environment.patches.items():
        monkeypatch.setattr(path, value)


def forget(environment: Environment) -> None:
    """Unload the modules that were pretended."""
    for name in {m.split(".")[0] for m in environment.modules}:
        for loaded in [m for m in sys.modules if m.split(".")[0] == name]:
            del sys.modules[loaded]


def _site(environment: Environment, folder: Path) -> Path:
    folder.mkdir()
    for name, version in environment.packages.items():
        about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    packages = {m.split(".")[0] for m in environment.modules if "." in m}
    for module, source in environment.modules.items():
        parts = [*module.split("."), "__init__"] if module in packages else module.split(".")
        file = folder.joinpath(*parts).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
    return folder


def _programs(scripts: Mapping[str, str], folder: Path) -> Path:
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder
