"""Whole engines over the backend's parts on the device that stands in: ``python steps.py CASE …``.

Prints one JSON record a case: the tokens, what was logged aloud, and how steps were run.
"""

import json
import logging
import sys
from typing import Any

import torch
from tests.unit.tiny_models import GREEDY, PROMPTS, configs
from tests.unit.xpu import ipex_library, library, stand_in
from tests.unit.xpu.device import Graph
from tupelo_xpu import ipex_calls
from tupelo_xpu.options import Options

from tupelo.backend import Backend, Capabilities
from tupelo.checkpoint import parse_hf_config
from tupelo.engine import Engine
from tupelo.engine.build import Source

MODELS = configs(head_dim=64)

MODEL_OF = {name: name for name in MODELS} | {"wrong_attention": "windowed", "wrong_experts": "moe"}


def run(backend: Backend, model: str) -> dict[str, Any]:
    """An engine's tokens, what it logged, and which kernels it chose."""
    settings: dict[str, Any] = {
        "dtype": "float16",
        "page_size": 16,
        "max_total_tokens": 512,
        "max_running_requests": 3,
        "chunked_prefill_size": 6,
        "check_integrity": True,
    }
    heard, config = _Heard(), parse_hf_config(MODELS[model])
    source = Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")
    logging.getLogger("tupelo").addHandler(heard)
    logging.getLogger("tupelo_xpu").addHandler(heard)
    with Engine(backend=backend, source=source, **settings) as engine:
        before = Graph.num_replays
        replies = engine.generate(input_ids=PROMPTS, sampling_params=GREEDY)
    logging.getLogger("tupelo").removeHandler(heard)
    logging.getLogger("tupelo_xpu").removeHandler(heard)
    return {
        "tokens": [reply["output_ids"] for reply in replies],
        "replays": Graph.num_replays - before,
        "log": heard.lines,
    }


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def sees_too_much(*args: Any, **kwargs: Any) -> Any:
    """Attention without the window."""
    changed = list(args)
    changed[20] = -1
    return library.varlen_fwd(*changed, **kwargs)


def not_compiled(*args: Any, **kwargs: Any) -> Any:
    """What the library says of sizes that it lacks."""
    raise RuntimeError("Paged decode kernel not compiled for this config: head_size=64")


def wrong_sum(output: torch.Tensor, *args: Any) -> None:
    """Experts' outputs, summed a little too high."""
    library.moe_gather(output, *args)
    output.mul_(1.1)


def main(*cases: str) -> None:
    """Run the cases, all of them in this process."""
    stand_in.enter()
    ipex_library.install()
    ipex_calls.installed = lambda package: ipex_library.RELEASE
    logging.getLogger("tupelo").setLevel(logging.INFO)
    logging.getLogger("tupelo_xpu").setLevel(logging.INFO)
    plain = Backend(
        name="plain",
        device="cpu",
        capabilities=Capabilities(dtypes=("float16",), plan_needs_host_lens=True),
    )
    for case in cases:
        model = MODEL_OF.get(case, "dense")
        functions = dict(library.FUNCTIONS)
        options = Options(vllm=case != "ipex", ipex=case == "ipex")
        if case == "no_library":
            options = Options(vllm=False)
        if case == "wrong_attention":
            library.FUNCTIONS["varlen_fwd"] = sees_too_much
        if case == "not_compiled":
            library.FUNCTIONS["varlen_fwd"] = not_compiled
        if case == "wrong_experts":
            library.FUNCTIONS["moe_gather"] = wrong_sum
        if case == "no_capture":
            Graph.failure = "work_group_scratch_memory is not supported by SYCL Graph"
        Graph.broken = case == "wrong_graph"
        record = run(stand_in.backend(options), model)
        Graph.failure, Graph.broken = "", False
        library.FUNCTIONS.update(functions)
        print(json.dumps({"case": case, "want": run(plain, model)["tokens"], **record}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
