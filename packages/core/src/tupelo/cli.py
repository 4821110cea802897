"""The command ``tupelo``: finds the subcommand, runs it, and turns errors into messages.

Subcommands are entry points of the group ``tupelo.commands``, so that other packages add theirs by
being installed. Nothing heavy is imported before a command runs.
"""

import difflib
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from tupelo import __version__
from tupelo.commands import Command
from tupelo.errors import ConfigError, TupeloError

BEGAN_S = time.monotonic()
"""When this process began, but for the start of Python itself: nothing is imported before."""

GROUP = "tupelo.commands"
_HOMES = {"serve": "tupelo-server", "chat": "tupelo-server", "bench": "tupelo-server"}
_USAGE = "usage: tupelo [-h] [--version] COMMAND ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``tupelo`` with ``argv``, by default the process's own arguments.

    Returns:
        The exit code: 0 done, 1 a command's own negative answer, 2 a user's error, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help"):
            print(_overview())
            return 0
        if name == "--version":
            print(f"tupelo {__version__}")
            return 0
        return _run(find_command(name), arguments[1:])
    except TupeloError as error:
        print(f"tupelo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def find_command(name: str) -> Command:
    """The command called ``name``; imports its module and no other command's.

    Raises:
        ConfigError: no such command (says which package brings it, or what is close), or its
            package cannot be imported.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name in points:
        return _load(points[name])
    if name in _HOMES:
        package = _HOMES[name]
        raise ConfigError(
            f"`tupelo {name}` comes with the package {package}: pip install {package}"
        )
    close = difflib.get_close_matches(name, points, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "see `tupelo --help`"
    raise ConfigError(f"no command {name!r}; commands: {', '.join(sorted(points))}; {hint}")


def _run(command: Command, arguments: list[str]) -> int:
    try:
        if command.parses_itself:
            return command.run(Namespace(rest=arguments))
        parser = ArgumentParser(prog=f"tupelo {command.name}", description=command.help)
        command.configure(parser)
        return command.run(parser.parse_args(arguments))
    except SystemExit as stop:  # argparse has printed its message, or the help
        return stop.code if isinstance(stop.code, int) else 2


def _overview() -> str:
    """The help: every installed command with its line, and what others would bring."""
    rows = []
    installed = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    for point in installed:
        try:
            rows.append((point.name, _load(point).help))
        except ConfigError as error:
            rows.append((point.name, f"(broken) {error}"))
    present = {point.name for point in installed}
    rows += [(n, f"(pip install {p})") for n, p in sorted(_HOMES.items()) if n not in present]
    lines = [f"  {name:<11} {text}" for name, text in rows]
    head = [_USAGE, "", "Serve large language models.", "", "commands:"]
    return "\n".join([*head, *lines, "", "`tupelo COMMAND --help` explains one."])


def _load(point: EntryPoint) -> Command:
    try:
        command = point.load()
    except (ImportError, AttributeError) as error:
        source = point.dist.name if point.dist is not None else "its package"
        raise ConfigError(
            f"`tupelo {point.name}` cannot be loaded: {error}; reinstall {source}"
        ) from error
    if not isinstance(command, Command):
        raise ConfigError(f"`tupelo {point.name}` is {type(command).__name__}, not a Command")
    return command
