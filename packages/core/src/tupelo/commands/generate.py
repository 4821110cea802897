"""``tupelo generate``: continue one prompt with a model in this process, without a server."""

import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any, Final

from tupelo.commands import Command
from tupelo.commands.options import add_model, add_options, from_args
from tupelo.config import EngineConfig

# Flags for fields of SamplingParams; its own checks apply. The seed is the engine's --seed.
_SAMPLING: Final[tuple[tuple[str, type, str], ...]] = (
    ("max_new_tokens", int, "tokens to generate at most (default: 128)"),
    ("min_new_tokens", int, "tokens to generate at least"),
    ("temperature", float, "0 takes the likeliest token each time (default: 1)"),
    ("top_p", float, "sample from the likeliest tokens that have this probability together"),
    ("top_k", int, "sample from this many likeliest tokens"),
    ("min_p", float, "drop tokens below this share of the likeliest one's probability"),
    ("repetition_penalty", float, "above 1 makes tokens that occurred less likely"),
)


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--prompt", required=True, help="text to continue; - reads standard input")
    for name, kind, text in _SAMPLING:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, dest=name, type=kind, metavar="N", help=text)
    parser.add_argument("--stop", nargs="+", metavar="TEXT", help="texts that end the output")
    parser.add_argument("--ignore-eos", action="store_true", help="go on after an end token")
    add_options(parser, EngineConfig)


def _run(args: Namespace) -> int:
    config = from_args(EngineConfig, args)
    from tupelo.engine.files import check_files_here

    check_files_here(config)  # before torch is imported
    from tupelo.engine import Engine

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    given = {name: getattr(args, name) for name, _, _ in _SAMPLING}
    given |= {"stop": args.stop, "ignore_eos": args.ignore_eos}
    params = {name: value for name, value in given.items() if value is not None}
    with Engine(config) as engine:
        began = time.monotonic()
        shown, meta = 0, dict[str, Any]()
        for reply in engine.generate(prompt, params, stream=True):
            text, meta = reply["text"], reply["meta_info"]
            print(text[shown:], end="", flush=True)
            shown = len(text)
        print()
        _summarise(meta, time.monotonic() - began)
    return 0


def _summarise(meta: dict[str, Any], elapsed_s: float) -> None:
    """Say on standard error, apart from the text, what it took."""
    count = meta["completion_tokens"]
    print(
        f"[{meta['prompt_tokens']} prompt tokens, {count} new ones in {elapsed_s:.2f} s "
        f"({count / elapsed_s:.1f} tokens/s); ended by {meta['finish_reason']['type']}]",
        file=sys.stderr,
    )


COMMAND = Command("generate", "continue a prompt, without a server", _configure, _run)
