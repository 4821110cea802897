"""Whole steps through TorchTPU's device without a TPU: their shapes, and that each is one graph.

    python ci/tpu/torchtpu.py REPORT.json

Where there is no TPU, TorchTPU loads, and torch's fake tensors keep its device's rules. The
backend's own runner is driven with them, for a dense decoder and one of experts: each program goes
through ``torch.compile`` as for a TPU, with torch's own compiler in the place of TorchTPU's, which
asks for a chip at once (that is tried as well). Nothing is computed, and nothing runs on XLA.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # asks no cloud what machine this is

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_tpu import _loader
from tupelo_tpu import programs
from tupelo_tpu.kernels import KERNELS
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.runner import ALL, DRAWN, PLAIN, XlaRunner
from tupelo_tpu.sampler import XlaSampler

from tupelo.backend import Done, ReferenceAttention, RunnerParts, Ticket, TorchRuntime
from tupelo.backend.graphs.buckets import idle_batch
from tupelo.batch import Bucket
from tupelo.checkpoint import parse_hf_config
from tupelo.models import build_model
from tupelo.ops import OPS, OpTable
from tupelo.weights import dummy_weights

DEVICE = "tpu:0"
PAGE_SIZE, MAX_PAGES, NUM_SLOTS = 16, 4, 4
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
QWEN3_MOE = LLAMA | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}


class FakeRuntime(TorchRuntime):
    """Of a device on which nothing is computed; what arrives is zeros."""

    def __init__(self, device: str) -> None:
        self.device, self._on_host, self._stream = torch.device(device), False, None

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def to_device(self, array: Any) -> Tensor:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        return torch.empty(array.shape, dtype=dtype, device=self.device)

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[Any]]:
        return Done(
            [np.zeros(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in tensors]
        )


def run_steps(name: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """A decode step and a prompt's, each sampled in every way."""
    runtime = FakeRuntime(DEVICE)
    model = build_model(parse_hf_config(config), dtype="bfloat16")
    dummy_weights(model, 0, device=runtime.device)
    table = OpTable(OPS, KERNELS)
    model.bind(table)
    vocab_size, groups = config["vocab_size"], len(model.kv_specs)
    sizes = (PAGE_SIZE, MAX_PAGES)
    runner = XlaRunner(
        RunnerParts(
            model=model,
            attention=ReferenceAttention(model.attention_specs, *sizes, runtime, False),
            kv=XlaKVPool(model.kv_specs, [8] * groups, PAGE_SIZE, runtime),
            sampler=XlaSampler(NUM_SLOTS, vocab_size, table, runtime),
            runtime=runtime,
            num_slots=NUM_SLOTS,
            max_pages=MAX_PAGES,
            num_groups=groups,
            max_tokens=16,
        )
    )
    results = []
    for count, bucket in ((1, Bucket(8, 8)), (9, Bucket(16, 8))):
        batch = idle_batch((count,), NUM_SLOTS, groups, bucket)
        before = programs.num_graphs()
        forward = runner.forward(batch)
        for features in (PLAIN, DRAWN, ALL):
            batch.features = features
            runner.sample(forward, batch)
        graphs = programs.num_graphs() - before
        right = list(forward.logits.shape) == [bucket.rows, vocab_size] and graphs > 0
        results.append(
            {
                "model": name,
                "tokens": bucket.tokens,
                "device": str(forward.logits.device),
                "graphs": graphs,
                "passed": right and str(forward.logits.device) == DEVICE,
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


def asks_for_a_chip() -> str:
    """What TorchTPU's own compiler says here."""
    x = torch.zeros(8, 8, device=DEVICE)
    try:
        torch.compile(torch.relu, backend=programs.COMPILER, fullgraph=True)(x)
    except Exception as error:  # what it says is the result
        found = [line for line in str(error).splitlines() if "PjRt" in line]
        return found[0] if found else f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def main() -> int:
    """0 if the steps of both models have their shapes, on TorchTPU's device."""
    _loader._init_device_impl("tpu")
    with FakeTensorMode(), torch.no_grad():
        with mock.patch.object(programs, "COMPILER", "aot_eager"):
            steps = [*run_steps("llama", LLAMA), *run_steps("qwen3_moe", QWEN3_MOE)]
        said = asks_for_a_chip()
    found = {name: version(name) for name in ("torch-tpu", "torch", "libtpu")}
    result = {"versions": found, "without_a_chip": said, "steps": steps}
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1), "utf-8")
    print(said)
    return 0 if all(step["passed"] for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
