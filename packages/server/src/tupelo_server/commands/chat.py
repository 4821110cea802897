"""``tupelo chat``: talk to a model in the terminal, over a running server or one of its own."""

import contextlib
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from tupelo.commands import Command
from tupelo.commands.options import add_model, add_options, from_args
from tupelo.config import EngineConfig
from tupelo.errors import ConfigError
from tupelo_server.config import client_key

HISTORY = "~/.local/state/tupelo/chat-history"


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        "--url", help="server to talk to, such as http://127.0.0.1:30000; else one is started"
    )
    parser.add_argument("--api-key", default="", help="key of that server; or TUPELO_API_KEY")
    parser.add_argument("--system", default="", help="instructions for the model")
    parser.add_argument("--max-tokens", type=int, help="tokens of a reply at most")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token each time")
    parser.add_argument(
        "--history",
        default=HISTORY,
        metavar="FILE",
        help=f"keeps what is typed at a terminal; '' keeps nothing (default: {HISTORY})",
    )
    add_options(parser, EngineConfig)


def _run(args: Namespace) -> int:
    from tupelo_server.repl import Lines, PipedLines, Repl, TypedLines
    from tupelo_server.terminal import Conversation, running_server

    key = client_key(args.api_key)
    options = {"max_tokens": args.max_tokens, "temperature": args.temperature}
    lines: Lines = PipedLines(sys.stdin)
    if sys.stdin.isatty() and sys.stdout.isatty():
        path = Path(args.history).expanduser() if args.history else None
        try:
            lines = TypedLines(path)
        except OSError as error:
            raise ConfigError(f"--history {path}: {error.strerror}; give another file") from error
    with contextlib.ExitStack() as stack:
        url = args.url
        if not url:
            print("starting the model ...", file=sys.stderr)
            url = stack.enter_context(running_server(from_args(EngineConfig, args)))
        talk = stack.enter_context(
            contextlib.closing(Conversation(url, key, system=args.system, options=options))
        )
        if lines.interactive:
            # Whatever runs in a script's background is started with Ctrl-C ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            print("/help lists commands; Ctrl-C stops a reply, Ctrl-D leaves", file=sys.stderr)
        Repl(talk, lines).run()
    return 0


COMMAND = Command("chat", "talk to a model in the terminal", _configure, _run)
