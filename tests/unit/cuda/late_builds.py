"""Which Triton kernels an engine would build after it was ready: ``python late_builds.py MODEL``.

A process of its own, since the interpreter, which the other tests need, is chosen at import. The
launchers run as they are for a GPU that isn't there: each launch ends where its specialisation is
known, and nothing is computed, so memory that kernels would have filled is zeroed. Prints a line
for each kernel that came late.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from tests.unit.graphs.fakes import CopyingRuntime, FakeCapture
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from tupelo_cuda.attention import CudaAttention
from tupelo_cuda.kernels import best_tokens, cuda_kernels
from tupelo_cuda.options import Options
from tupelo_cuda.products import candidates

from tupelo.backend import Backend, Capabilities, GraphGrade
from tupelo.backend.graphs.runner import GraphRunner
from tupelo.checkpoint import parse_hf_config
from tupelo.conformance.sweep import run_sweep
from tupelo.engine import Engine
from tupelo.engine.build import Source
from tupelo.triton.choices import ChoiceTable

LENGTHS = (1, 2, 3, 15, 16, 17, 33, 64, 65, 100, 200, 255, 256, 257, 300, 513, 700)
COUNTS = (1, 2, 3, 7, 12, 24)

SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 1024,  # large enough for products to have a choice
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 100,
        "query_pre_attn_scalar": 64,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}


class Specialisations:
    """What would have been compiled; replaces compiling and launching.

    Attributes:
        names: a kernel for each specialisation, in the order in which they came.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._seen: set[tuple[str, str]] = set()
        stand_in = SimpleNamespace(
            get_current_device=lambda: 0,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )
        driver.set_active(stand_in)
        run = JITFunction.run
        JITFunction.run = lambda self, *a, grid, warmup, **k: run(  # type: ignore[method-assign]
            self, *a, grid=grid, warmup=True, **k
        )
        knobs.runtime.jit_cache_hook = self._note

    def count(self) -> int:
        return len(self.names)

    def _note(self, *, key: Any, repr: str, fn: Any, **_: Any) -> bool:
        found = (fn.name, str(key))
        if found not in self._seen:
            self._seen.add(found)
            self.names.append(repr)
        return True  # nothing is to be compiled


def zeroed() -> None:
    """No kernel runs, so whatever is allocated must not hold ids that lead nowhere."""
    zeros, zeros_like = torch.zeros, torch.zeros_like

    def only(**more: Any) -> dict[str, Any]:
        return {k: v for k, v in more.items() if k in ("dtype", "device")}

    torch.empty = lambda *sizes, **more: zeros(*sizes, **only(**more))
    torch.empty_like = lambda x, **more: zeros_like(x.contiguous(), **only(**more))
    torch.Tensor.new_empty = lambda self, *sizes, **more: self.new_zeros(*sizes, **only(**more))


def prefer_triton(ways: Any, arguments: Any) -> dict[str, float]:
    """In place of measuring: Triton's launches, where there are any."""
    return {name: 0.0 if name.startswith("triton") else 1.0 + len(name) for name in ways}


def backend(builds: Callable[[], int]) -> Backend:
    """The CUDA backend's parts over Triton's attention, on the CPU's memory."""
    table = ChoiceTable(candidates, prefer_triton)
    return Backend(
        name="absent",
        device="cpu",
        contract=1,
        capabilities=Capabilities(
            dtypes=("bfloat16",),
            graph=GraphGrade.CAPTURED,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            pipeline_depth=2,
        ),
        kernels=cuda_kernels(table),
        attention=partial(CudaAttention, Options(attention="triton")),
        runner=lambda parts: GraphRunner(parts, FakeCapture(), table.open, best_tokens(), cut=True),
        runtime=CopyingRuntime,
        builds=builds,
    )


def main(model: str) -> None:
    """Sweep one model."""
    zeroed()
    found = Specialisations()
    source = Source(
        config=parse_hf_config(SHAPE | MODELS[model]), checkpoint=None, path="", tokenizer_path=""
    )
    with Engine(
        source=source,
        backend=backend(found.count),
        max_running_requests=24,
        chunked_prefill_size=256,
        max_total_tokens=20000,
        context_length=2048,
    ) as engine:
        ready = found.count()
        built = run_sweep(engine, LENGTHS, COUNTS, new_tokens=4)
    assert built == found.count() - ready
    print(f"{ready} when ready", *found.names[ready:], sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
