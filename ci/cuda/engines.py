"""Engines that the parts of the pipeline run: the Llama-3.1-8B shape with dummy weights."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_workloads as workloads  # noqa: E402
from dummy_model import LLAMA_8B, write_model  # noqa: E402

from tupelo.backend import find_backend  # noqa: E402
from tupelo.checkpoint import parse_hf_config  # noqa: E402
from tupelo.engine import Engine  # noqa: E402
from tupelo.engine.build import Source  # noqa: E402


def llama(layers: int, *, tokenizer: str = "", backend: str = "cuda", **options: Any) -> Engine:
    """An engine over as many of its layers, with no options but these."""
    shape = parse_hf_config(LLAMA_8B | {"num_hidden_layers": layers})
    source = Source(config=shape, checkpoint=None, path="llama", tokenizer_path=tokenizer)
    settings: dict[str, Any] = {"context_length": 8192, "max_queued_requests": 32768}
    return Engine(source=source, backend=find_backend(backend), **(settings | options))


__all__ = ["llama", "workloads", "write_model"]
