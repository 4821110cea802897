"""The command ``tupelo``: finding commands, exit codes, messages instead of tracebacks."""

import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.metadata import EntryPoint

import pytest

from tupelo import cli, launch_server
from tupelo.commands import Command
from tupelo.errors import BackendUnavailable, ConfigError


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("--fail", choices=["user", "interrupt", "pipe"])
    parser.add_argument("--model-path")


def _run(args: Namespace) -> int:
    if args.fail == "user":
        raise BackendUnavailable("no usable backend")
    if args.fail == "interrupt":
        raise KeyboardInterrupt
    print("ran", args.model_path)
    return 7


SAMPLE = Command("sample", "a line about it", _configure, _run)
SERVE = Command("serve", "pretends to serve", _configure, _run)
RAW = Command("raw", "parses itself", _configure, lambda args: len(args.rest), parses_itself=True)
NO_COMMAND = "not a command"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that exactly these commands are installed."""
    group = "tupelo.commands"
    here = {"sample": "SAMPLE", "raw": "RAW", "odd": "NO_COMMAND"}
    points = [EntryPoint(name, f"{__name__}:{value}", group) for name, value in here.items()]
    points.append(EntryPoint("broken", "tupelo_of_nobody:COMMAND", group))
    monkeypatch.setattr(cli, "entry_points", lambda group: points)


@pytest.mark.parametrize(
    ("argv", "code", "out"),
    [
        (["sample"], 7, "ran None"),
        (["sample", "--model-path", "x"], 7, "ran x"),
        (["sample", "--help"], 0, "a line about it"),
        (["raw", "--help", "-x"], 2, ""),
        (["--version"], 0, "tupelo "),
        ([], 0, "usage: tupelo"),
    ],
    ids=["runs", "passes_arguments", "command_help", "passes_on_unparsed", "version", "bare"],
)
@pytest.mark.usefixtures("installed")
def test_exit_code_and_output(
    argv: Sequence[str], code: int, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == code
    assert out in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["sample", "--fail", "user"], "tupelo: error: no usable backend\n"),
        (["sampel"], "did you mean 'sample'?"),
        (["zzz"], "commands: broken, odd, raw, sample"),
        (["broken"], "`tupelo broken` cannot be loaded: No module named 'tupelo_of_nobody'"),
        (["odd"], "`tupelo odd` is str, not a Command"),
        (["serve"], "pip install tupelo-server"),
        (["sample", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
    ids=["error", "close", "unknown", "broken", "odd", "absent", "bad_flag"],
)
@pytest.mark.usefixtures("installed")
def test_a_users_error_is_one_message_and_exit_code_2(
    argv: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.usefixtures("installed")
def test_interrupt_ends_with_130() -> None:
    assert cli.main(["sample", "--fail", "interrupt"]) == 130


@pytest.mark.usefixtures("installed")
def test_overview_lists_installed_absent_and_broken(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert "  sample      a line about it" in lines
    assert "  serve       (pip install tupelo-server)" in lines
    assert any(line.startswith("  broken      (broken) ") for line in lines)


def test_launch_server_is_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "find_command", {"serve": SERVE}.__getitem__)
    assert launch_server.main(["--model-path", "here"]) == 7
    assert capsys.readouterr().out == "ran here\n"


def test_find_command_imports_no_other_command() -> None:
    code = (
        "import sys; from tupelo.cli import find_command; find_command('pull')\n"
        "print(*[m for m in sys.modules if m.startswith('tupelo.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"tupelo.commands.pull", "tupelo.commands.options"}


@pytest.mark.parametrize("command", [[], ["pull", "--help"], ["serve", "--help"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    code = (
        f"import sys; from tupelo.cli import main; code = main({[*command] or ['--help']!r})\n"
        "heavy = [m for m in ('torch', 'fastapi', 'transformers') if m in sys.modules]\n"
        "print(code, heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"
    assert "(broken)" not in done.stdout


def test_unknown_command_raises_for_callers() -> None:
    with pytest.raises(ConfigError, match="no command 'nothing-like-it'"):
        cli.find_command("nothing-like-it")


def test_a_closed_pipe_ends_quietly() -> None:
    shell = f"{sys.executable} -m tupelo doctor --json | head -c 1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stdout == "{"
    assert done.stderr == ""
