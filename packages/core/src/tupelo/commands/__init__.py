"""Subcommands of ``tupelo``: what a command is, and those that core brings.

A command is an entry point of the group ``tupelo.commands`` whose value is a ``Command``. Its
module is imported to list the commands, so it keeps heavy imports (torch, fastapi) inside ``run``.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand.

    Attributes:
        name: what users type; the name of its entry point.
        help: one line for the list of commands.
        configure: adds the command's arguments to its parser.
        run: does the work and returns the exit code. A ``TupeloError`` that it raises is printed
            as one message, with exit code 2.
        parses_itself: ``run`` gets all arguments, ``--help`` too, unparsed as ``args.rest``.
    """

    name: str
    help: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    parses_itself: bool = False
