"""``tupelo new-backend``: its package says what it lacks, and passes the kit as it is."""

import json
import os
import subprocess
import sys
import tomllib
from importlib import import_module, invalidate_caches
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from tests.installed import install

from tupelo import cli
from tupelo.backend import CONTRACT_VERSION, Backend, Unavailable
from tupelo.commands.new_backend import new_backend

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that core's metadata names, whatever version of it is installed."""
    about = tomllib.loads((ROOT / "packages" / "core" / "pyproject.toml").read_text())["project"]
    group = "tupelo.commands"
    points = [EntryPoint(n, v, group) for n, v in about["entry-points"][group].items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: points)


@pytest.mark.usefixtures("command")
def test_a_package_for_the_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made"
    assert cli.main(["new-backend", "glow7", "--into", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    made = [path for path in folder.rglob("*") if path.is_file()]
    assert {*printed[:-1]} == {str(path) for path in made}
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in made}
    assert not [name for name, text in texts.items() if "acme" in (name + text).lower()]
    assert os.access(folder / "ci" / "run.sh", os.X_OK)
    project = tomllib.loads(texts["pyproject.toml"])["project"]
    assert project["entry-points"]["tupelo.backends"] == {"glow7": "tupelo_glow7:backend"}
    jobs = yaml.safe_load(texts[".github/workflows/glow7.yml"])["jobs"]
    calls = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert calls == ["OUT=out ci/run.sh --no-device", "OUT=out ci/run.sh"]
    assert len(texts["README.md"].splitlines()) <= 40
    rules = ["--isolated", "--line-length", "100", "--select", "E,F,I,B,UP,SIM,PT,RUF"]
    for check in (["check", *rules], ["format", "--isolated", "--line-length", "100", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check], cwd=folder, check=True)


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["Glow"], "NAME: got 'Glow'; must be lower-case letters and digits"),
        (["../glow"], "NAME: got '../glow'"),
        (["cpu"], "a backend 'cpu' is installed already"),
        (["glow", "--into", str(ROOT)], "is not empty; name another folder with --into"),
        (["glow", "--into", __file__], "is not empty"),
        (["glow", "--device", "a b"], "--device: got 'a b'"),
        (["glow", "--library", 'x"'], "--library: got 'x\"'"),
    ],
    ids=["capital", "path", "taken", "full", "file", "device", "library"],
)
def test_what_cannot_be_is_refused(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new-backend", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def imported(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package's module, until the test ends."""
    monkeypatch.syspath_prepend(str(folder))
    invalidate_caches()
    module = import_module(f"tupelo_{name}")
    for loaded in [m for m in sys.modules if m.split(".")[0] == module.__name__]:
        monkeypatch.delitem(sys.modules, loaded)
    return module


def test_the_first_thing_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, site = tmp_path / "project", tmp_path / "site"
    new_backend("glow", project, device="glow:0", library="torch_glow")
    site.mkdir()
    install(project, site)
    backend = imported("glow", site, monkeypatch).backend
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert extras["optional-dependencies"]["vendor"] == ["torch-glow"]

    def reason() -> str:
        invalidate_caches()
        answer = backend()
        assert isinstance(answer, Unavailable)
        return answer.reason

    assert reason() == ('torch_glow is not installed; pip install "tupelo-backend-glow[vendor]"')
    library = site / "torch_glow.py"
    library.write_text('raise OSError("libglow.so: cannot open shared object file")\n')
    assert "torch_glow cannot be loaded: libglow.so: cannot open" in reason()
    library.write_text("LOADED = True\n")
    assert "finds no glow device" in reason()
    monkeypatch.delitem(sys.modules, "torch_glow")
    monkeypatch.setenv("TUPELO_GLOW_DEVICE", "cpu")
    answer = backend()
    assert isinstance(answer, Backend)
    assert (answer.check().device, answer.contract) == ("cpu", CONTRACT_VERSION)
    assert answer.versions["tupelo-backend-glow"] == "0.1.0"


def pipeline(folder: Path, *args: str) -> dict[str, Any]:
    """What the kit reports where ``ci/run.sh --no-device`` passes, the package installed."""
    project, site = folder / "project", folder / "site"
    new_backend("glow", project)
    site.mkdir()
    install(project, site)
    own = {"INSTALL": "0", "PYTHON": sys.executable, "OUT": str(folder / "out")}
    path = f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [str(project / "ci" / "run.sh"), "--no-device", *args],
        env={**os.environ, **own, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    if args:
        subprocess.run(tests, cwd=project, env={**os.environ, "PYTHONPATH": path}, check=True)
    report: dict[str, object] = json.loads((folder / "out/kit/conformance.json").read_text())
    return report


def test_its_pipeline_passes_without_a_device(tmp_path: Path) -> None:
    report = pipeline(tmp_path, "--level", "0")
    assert report["green"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_kit_is_green_at_once(tmp_path: Path) -> None:
    report = pipeline(tmp_path)
    assert report["green"]
    assert report["levels"] == [0, 1, 2, 3, 4]
    assert {row["tier"] for row in report["ops"]} == {"reference"}
