"""``tupelo conform``: the conformance kit, as ``python -m tupelo.conformance``."""

from argparse import ArgumentParser, Namespace

from tupelo.commands import Command


def _configure(parser: ArgumentParser) -> None:
    """Nothing: the kit reads its own arguments."""


def _run(args: Namespace) -> int:
    from tupelo.conformance import main

    return main(args.rest)


COMMAND = Command("conform", "prove a backend with the conformance kit", _configure, _run, True)
