"""``tupelo bench``: load on any server with the OpenAI API, and what came of it."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tupelo.commands import Command
from tupelo.errors import ConfigError
from tupelo_server.config import client_key

if TYPE_CHECKING:
    from tupelo_server.bench.client import Load
    from tupelo_server.bench.datasets import Prompt

DATASETS = ("random-ids", "shared-prefix", "text")
_DEFAULT_VOCAB = 32000


def _configure(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:30000", help="the server (default: %(default)s)")
    add("--api-key", default="", help="its key; or TUPELO_API_KEY")
    add("--model", default="", help="model to ask for; the server's first if absent")
    add("--dataset", choices=DATASETS, default=DATASETS[0], help="prompts (default: %(default)s)")
    add("--num-requests", type=_positive, default=64, help="requests (default: %(default)s)")
    add("--rate", type=float, default=0.0, help="requests a second, Poisson; 0 sends all at once")
    add("--concurrency", type=int, default=0, help="requests under way at most; 0 means no limit")
    add("--input-len", type=_positive, default=128, help="own ids a prompt (default: %(default)s)")
    add("--output-len", type=_positive, default=64, help="new tokens (default: %(default)s)")
    add("--groups", type=_positive, default=8, help="shared-prefix: groups (default: %(default)s)")
    add("--prefix-len", type=_positive, default=512, help="its ids (default: %(default)s)")
    add("--text", nargs="+", default=[], help="dataset text: prompts, or @FILE with one a line")
    add("--vocab-size", type=int, default=0, help="ids are drawn below this; asked if absent")
    add("--chat", action="store_true", help="over chat completions; needs the dataset text")
    add("--temperature", type=float, default=0.0, help="of sampling (default: %(default)s)")
    add("--no-ignore-eos", action="store_true", help="let replies end early; plain OpenAI fields")
    add("--warmup", type=int, default=1, help="requests before the measurement")
    add("--seed", type=int, default=0, help="of prompts and arrivals (default: %(default)s)")
    add("--json", default="", metavar="FILE", help="also write the figures here; - is stdout")


def _run(args: Namespace) -> int:
    import asyncio
    import json

    from tqdm import tqdm

    from tupelo_server.bench.client import run
    from tupelo_server.bench.report import summarise, table

    load, prompts = _load(args), _prompts(args)
    if args.warmup:
        asyncio.run(run(load, prompts[: args.warmup], lambda _: None))
    with tqdm(total=len(prompts), unit="request", disable=not sys.stderr.isatty()) as bar:
        samples = asyncio.run(run(load, prompts, lambda _: bar.update()))
    figures = summarise(samples)
    figures["arguments"] = {k: v for k, v in vars(args).items() if k not in ("api_key", "run")}
    if args.json == "-":
        print(json.dumps(figures))
    else:
        print(table(figures))
    if args.json not in ("", "-"):
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    failures = sorted({sample.error for sample in samples if sample.error})
    for text in failures[:5]:
        print(f"failed: {text}", file=sys.stderr)
    return 1 if figures["failed"] else 0


def _load(args: Namespace) -> "Load":
    from tupelo_server.bench.client import Load

    if args.chat and args.dataset != "text":
        raise ConfigError("--chat needs --dataset text: a conversation has no token ids")
    extra: dict[str, Any] = {"temperature": args.temperature}
    if not args.no_ignore_eos:
        extra["ignore_eos"] = True
    key = client_key(args.api_key)
    model = args.model or _ask(args.url, key, "/v1/models")["data"][0]["id"]
    return Load(
        url=args.url,
        key=key,
        model=model,
        output_len=args.output_len,
        rate=args.rate,
        concurrency=args.concurrency,
        chat=args.chat,
        seed=args.seed,
        extra=extra,
    )


def _prompts(args: Namespace) -> "list[Prompt]":
    from tupelo_server.bench.datasets import Shape, fixed_text, random_ids, shared_prefix

    if args.dataset == "text":
        return fixed_text([text for item in args.text for text in _texts(item)], args.num_requests)
    shape = Shape(
        num_requests=args.num_requests,
        input_len=args.input_len,
        vocab_size=args.vocab_size or _vocab_size(args),
        seed=args.seed,
        groups=args.groups,
        prefix_len=args.prefix_len,
    )
    return random_ids(shape) if args.dataset == "random-ids" else shared_prefix(shape)


def _texts(item: str) -> list[str]:
    if not item.startswith("@"):
        return [item]
    try:
        lines = Path(item[1:]).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--text {item}: {error}") from error
    return [line for line in lines if line.strip()]


def _vocab_size(args: Namespace) -> int:
    """The vocabulary that the server tells, else a size that every usual model has."""
    key = client_key(args.api_key)
    try:
        return int(_ask(args.url, key, "/model_info")["vocab_size"])
    except (ConfigError, KeyError, ValueError):
        print(f"vocabulary unknown: drawing ids below {_DEFAULT_VOCAB}", file=sys.stderr)
        return _DEFAULT_VOCAB


def _ask(url: str, key: str, path: str) -> dict[str, Any]:
    import httpx

    from tupelo.lang.backends.http import uses_proxies

    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        response = httpx.get(url + path, headers=headers, timeout=10.0, trust_env=uses_proxies(url))
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ConfigError(f"no answer from {url}{path}: {error}; is a server there?") from error
    return answer


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


COMMAND = Command("bench", "measure a server's speed", _configure, _run)
