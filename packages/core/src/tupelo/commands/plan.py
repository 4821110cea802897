"""``tupelo plan``: how a model would divide this machine's memory, from its headers alone."""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tupelo.commands import Command
from tupelo.commands.options import add_model, add_options, from_args
from tupelo.config import EngineConfig


def make_plan(config: EngineConfig) -> dict[str, Any]:
    """What ``serve`` would allocate for ``config``, as JSON has it. No weights are read.

    Raises:
        OutOfMemory: it does not fit; the message has the same figures.
        TupeloError: whatever else would keep ``serve`` from starting.
    """
    from tupelo.backend import find_backend
    from tupelo.engine.build import find_source, make_model
    from tupelo.engine.plan import plan_engine
    from tupelo.engine.resolve import resolve

    backend = find_backend(config.backend or None)
    config = resolve(config, backend)
    source = find_source(config)
    model = make_model(config, source.config, backend)
    plan = plan_engine(config, model, backend, backend.runtime(backend.device))
    memory, pooling = asdict(plan.memory), source.config.pooling
    notes = memory.pop("notes")
    return {
        "model": source.path,
        "architecture": source.config.architecture,
        "task": "generate" if pooling is None else pooling.task.value,
        "backend": backend.name,
        "dtype": model.options.dtype,
        **memory,
        "total_bytes": plan.memory.total_bytes,
        "context_length": plan.context_length,
        "model_context_length": source.config.max_position_embeddings,
        "page_size": config.page_size,
        "groups": [asdict(group) for group in plan.groups],
        "notes": list(notes),
    }


def render(plan: Mapping[str, Any]) -> str:
    """The plan of ``make_plan`` for people."""
    rows = [("weights", "weight_bytes"), ("K/V", "kv_bytes"), ("workspace", "workspace_bytes")]
    lines = [
        f"{plan['model']}",
        f"{plan['architecture']} in {plan['dtype']} on backend {plan['backend']}, "
        f"to {plan['task']}",
        *(f"  {name:<10}{_mib(plan[key])}" for name, key in [*rows, ("total", "total_bytes")]),
    ]
    lines += _kv_lines(plan) if plan["groups"] else _whole_lines(plan)
    return "\n".join([*lines, *plan["notes"]])


def _kv_lines(plan: Mapping[str, Any]) -> list[str]:
    lines = [
        f"K/V takes {plan['bytes_per_token'] / 1024:.1f} KiB a token: "
        f"{plan['kv_tokens']:,} tokens fit, in pages of {plan['page_size']}"
    ]
    for number, group in enumerate(plan["groups"]):
        window = f"the last {group['window']}" if group["window"] else "all"
        lines.append(f"  page group {number}: {group['num_pages']:,} pages, sees {window} tokens")
    lines.append(
        f"context {plan['context_length']:,} tokens, of the model's "
        f"{plan['model_context_length']:,}; {plan['kv_tokens'] // plan['context_length']:,} "
        "requests of that length at once"
    )
    return lines


def _whole_lines(plan: Mapping[str, Any]) -> list[str]:
    return [
        "nothing of an input is stored; inputs have "
        f"{plan['context_length']:,} tokens at most, of the model's "
        f"{plan['model_context_length']:,}"
    ]


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:12,.1f} MiB"


def _configure(parser: ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, in bytes")
    add_options(parser, EngineConfig)


def _run(args: Namespace) -> int:
    plan = make_plan(from_args(EngineConfig, args))
    print(json.dumps(plan, indent=2) if args.json else render(plan))
    return 0


COMMAND = Command("plan", "the memory that a model would take", _configure, _run)
