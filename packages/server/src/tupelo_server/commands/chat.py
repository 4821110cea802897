"""``tupelo chat``: talk to a model in the terminal, over a running server or one of its own."""

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from tupelo.commands import Command
from tupelo.commands.options import add_model, add_options, from_args
from tupelo.config import EngineConfig
from tupelo_server.config import client_key

HELP = "/clear forgets the conversation, /exit leaves, Ctrl-C stops a reply"


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--url", help="server to talk to, such as http://127.0.0.1:30000; else one is started"
    )
    parser.add_argument("--api-key", default="", help="key of that server; or TUPELO_API_KEY")
    parser.add_argument("--system", default="", help="instructions for the model")
    parser.add_argument("--max-tokens", type=int, help="tokens of a reply at most")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token each time")
    add_options(parser, EngineConfig)


def _run(args: Namespace) -> int:
    from tupelo_server.terminal import Conversation, running_server

    key = client_key(args.api_key)
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    with contextlib.ExitStack() as stack:
        url = args.url
        if not url:
            print("starting the model ...", file=sys.stderr)
            url = stack.enter_context(running_server(from_args(EngineConfig, args)))
        talk = stack.enter_context(
            contextlib.closing(Conversation(url, key, system=args.system, options=options))
        )
        print(HELP, file=sys.stderr)
        for line in _lines():
            if line == "/clear":
                talk.clear()
            elif line:
                _answer(talk, line)
    return 0


def _lines() -> Iterator[str]:
    """What the user types, until /exit or the end of the input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  line editing and history, where the platform has it
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if line == "/exit":
            return
        yield line


def _answer(talk: Any, line: str) -> None:
    """Print the reply as it comes; Ctrl-C stops it, and what there is of it stays."""
    with contextlib.suppress(KeyboardInterrupt):
        for piece in talk.ask(line):
            print(piece, end="", flush=True)
    print()


COMMAND = Command("chat", "talk to a model in the terminal", _configure, _run)
