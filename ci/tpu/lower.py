"""Traces the real programs of a decoder's steps, with Pallas attention, and writes them as HLO.

Runs where torch-xla is, on XLA's CPU device: a program is traced and not run. ``aot.py`` compiles
what is written for TPUs. The model is small in every size but those that attention sees.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
import torch_xla
from torch import Tensor
from tupelo_tpu import programs
from tupelo_tpu.attention import PallasAttention
from tupelo_tpu.collectives import XlaCollectives
from tupelo_tpu.kernels import KERNELS
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.mosaic import attend
from tupelo_tpu.pallas_shape import shape_for
from tupelo_tpu.runner import DRAWN, XlaRunner
from tupelo_tpu.runtime import XlaRuntime
from tupelo_tpu.sampler import XlaSampler

from tupelo.backend import RunnerParts
from tupelo.backend.graphs.buckets import idle_batch
from tupelo.batch import Bucket
from tupelo.checkpoint import parse_hf_config
from tupelo.layers.parallel import Parallel
from tupelo.models import build_model
from tupelo.ops import OPS, OpTable
from tupelo.specs import AttentionSpec
from tupelo.weights import dummy_weights

PAGE_SIZE, MAX_PAGES, NUM_PAGES, NUM_SLOTS = 16, 128, 64, 32

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

GEMMA3 = LLAMA | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 512,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}


class Traced(programs.Program):
    """A program that is written instead of compiled, and whose results are zeros."""

    folder = Path()
    about: ClassVar[dict[str, Any]] = {}
    written: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, fn: programs.Fn, args: Sequence[Tensor], donated: Sequence[int]) -> None:
        from torch_xla import _XLAC as xla

        torch_xla.sync(wait=True)
        results = list(fn(*args))
        name = "{model}.tp{world_size}.{kind}.hlo".format(**self.about)
        (self.folder / name).write_bytes(xla._get_xla_tensors_hlo_proto(results))
        self.written.append({"file": name, **self.about})
        self._like = [(tuple(r.shape), r.dtype) for r in results]
        del results
        xla._clear_pending_irs(str(torch_xla.device()))

    def __call__(self, args: Sequence[Tensor]) -> list[Tensor]:
        return [torch.zeros(size, dtype=dtype, device="xla:0") for size, dtype in self._like]


def trace(name: str, config: dict[str, Any], world_size: int) -> None:
    """Write a decode step, a mixed step and sampling of one model, as rank 0 of some has them."""
    parallel = Parallel(XlaCollectives(list(range(world_size))))
    shape = parse_hf_config(config)
    model = build_model(shape, dtype="bfloat16", max_length=2048, parallel=parallel)
    runtime = XlaRuntime("xla:0")
    dummy_weights(model, 0, device=runtime.device)
    table = OpTable(OPS, KERNELS)
    model.bind(table)
    attention = PallasAttention(attend, model.attention_specs, PAGE_SIZE, MAX_PAGES, runtime, False)
    sizes = [NUM_PAGES] * len(model.kv_specs)
    runner = XlaRunner(
        RunnerParts(
            model=model,
            attention=attention,
            kv=XlaKVPool(model.kv_specs, sizes, PAGE_SIZE, runtime),
            sampler=XlaSampler(NUM_SLOTS, shape.vocab_size, table, runtime),
            runtime=runtime,
            num_slots=NUM_SLOTS,
            max_pages=MAX_PAGES,
            num_groups=len(model.kv_specs),
            max_tokens=256,
        )
    )
    for step, bucket in (("decode", Bucket(32, 32)), ("mixed", Bucket(256, 32))):
        Traced.about = {
            "model": name,
            "world_size": world_size,
            "kind": step,
            "layers": shape.num_layers,
            "too_large": False,
        }
        batch = idle_batch((1,), NUM_SLOTS, len(model.kv_specs), bucket)
        forward = runner.forward(batch)
        if (name, world_size, step) == ("llama", 1, "decode"):
            Traced.about = Traced.about | {"kind": "sample"}
            batch.features = DRAWN
            runner.sample(forward, batch)
        print("traced", name, world_size, step, flush=True)


def trace_too_large() -> None:
    """Write attention whose pieces of K/V take more fast memory than any of the chips has."""
    kind = AttentionSpec(group=0, num_heads=32, num_kv_heads=8, head_dim=128, scale=0.1)
    shape = shape_for(kind, PAGE_SIZE, MAX_PAGES, 32, 32)
    assert shape is not None
    shape = replace(shape, page_size=1 << 14)
    sizes = ((4,), (4,), (33,), (32,), (32 * MAX_PAGES,))
    integers = [torch.zeros(size, dtype=torch.int32, device="xla:0") for size in sizes]
    q = torch.zeros((8, 4 * 32, 128), dtype=torch.bfloat16, device="xla:0")
    sinks = torch.zeros((8, 4 * 8, 1), device="xla:0")
    pools = [
        torch.zeros((2, 1 << 14, 1024), dtype=torch.bfloat16, device="xla:0") for _ in range(2)
    ]
    Traced.about = {
        "model": "attention",
        "world_size": 1,
        "kind": "too_large",
        "layers": 1,
        "too_large": True,
    }
    Traced(lambda *args: [attend(shape, args)], [*integers, q, sinks, *pools], ())


def main() -> None:
    """Trace into the folder named by the first argument, and write ``programs.json`` there."""
    Traced.folder = Path(sys.argv[1])
    Traced.folder.mkdir(parents=True, exist_ok=True)
    os.environ["XLA_ALWAYS_ALLREDUCE"] = "1"  # though this process knows of no other rank
    with mock.patch.object(programs, "Program", Traced):
        trace("llama", LLAMA, 1)
        trace("llama", LLAMA, 4)
        trace("gemma3", GEMMA3, 1)
        trace_too_large()
    (Traced.folder / "programs.json").write_text(json.dumps(Traced.written))


if __name__ == "__main__":
    main()
