"""``tupelo pull``: fetch a model ahead of time, so that serving it needs no network."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from tupelo.commands import Command
from tupelo.commands.options import add_model
from tupelo.config import environment


def pull(model: str = "", *, revision: str = "", offline: bool = False) -> Path:
    """The folder or file of ``model`` on this machine, downloaded where it is not there yet.

    Args:
        model: path or hub id; empty means the demo model.
        revision: of a hub id; empty means its main branch.
        offline: never download.

    Raises:
        CheckpointError: it cannot be had; says what to do.
    """
    from tupelo.checkpoint import demo_model, locate

    if not model:
        return demo_model(offline=offline)
    return locate(model, revision=revision or None, offline=offline)


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--revision", default="", help="branch, tag or commit of a hub id")
    parser.add_argument("--offline", action="store_true", help="only check what is already there")


def _run(args: Namespace) -> int:
    path = pull(
        getattr(args, "model", ""),
        revision=args.revision,
        offline=args.offline or environment().offline,
    )
    print(path)
    return 0


COMMAND = Command("pull", "download a model ahead of time", _configure, _run)
