"""Bytes foretold from the configuration, against bytes there once loaded and bound."""

from collections.abc import Iterator

import pytest
import torch
from tests.parity.harness import Driver
from tests.unit.weights.tiny import BIASED, GEMMA, LLAMA, QWEN3, TIED, Config
from torch import Tensor

from tupelo.checkpoint import parse_hf_config
from tupelo.models import Model, build_model
from tupelo.ops import OPS, Kernel, LinearWeight, OpTable
from tupelo.weights import dummy_weights, weight_sizes

CONFIGS = {"llama": LLAMA, "tied": TIED, "biased": BIASED, "qwen3": QWEN3, "gemma3": GEMMA}


class Packer:
    """Kernels over packed weights, here plain copies, that remember what they packed."""

    def __init__(self) -> None:
        self.packed: list[Tensor] = []
        references = {name: OPS[name].reference for name in self.names}
        self.kernels = [
            Kernel(op=name, name=f"packed_{name}", fn=fn, pack=self.pack)
            for name, fn in references.items()
        ]

    names = ("linear", "add_norm_linear", "gated_mlp")

    def pack(self, weight: LinearWeight) -> LinearWeight:
        """A copy that shares nothing with the weight as loaded but its bias."""
        copy = weight.weight.clone()
        self.packed.append(copy)
        return LinearWeight(
            weight.out_features, weight.in_features, {"weight": copy}, bias=weight.bias
        )


def _dummy(config: Config, dtype: str) -> Model:
    model = build_model(parse_hf_config(config), dtype=dtype, max_length=48)
    dummy_weights(model, 0, device="cpu")
    return model


def _plain(model: Model) -> Iterator[Tensor]:
    return (p.tensor for p in model.parameters() if p.tensor is not None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_foretold_bytes_are_there_after_loading(name: str, dtype: str) -> None:
    empty = build_model(parse_hf_config(CONFIGS[name]), dtype=dtype, max_length=48)
    sizes = weight_sizes(empty)
    model = _dummy(CONFIGS[name], dtype)
    assert sizes.parameter_bytes == sum(t.nbytes for t in _plain(model))
    assert sizes.packed_head_bytes == 0
    ropes = 2 if name == "gemma3" else 1
    head_dim = parse_hf_config(CONFIGS[name]).head_dim
    assert sizes.table_bytes == ropes * 48 * head_dim * 4
    assert sizes.total_bytes == sizes.parameter_bytes + sizes.table_bytes


@pytest.mark.parametrize("name", CONFIGS)
def test_packing_frees_the_plain_weights(name: str) -> None:
    """What is left: packed matrices, norms, biases, the embedding. Every matrix is packed once."""
    packer = Packer()
    table = OpTable(OPS, packer.kernels)
    model = _dummy(CONFIGS[name], "bfloat16")
    sizes = weight_sizes(model, table)
    model.bind(table)
    resident = sum(t.nbytes for t in (*_plain(model), *packer.packed))
    assert sizes.parameter_bytes + sizes.packed_head_bytes == resident
    tied = parse_hf_config(CONFIGS[name]).tie_word_embeddings
    assert (sizes.packed_head_bytes > 0) == tied
    assert len(packer.packed) == 2 * 4 + 1
    assert not any(
        p.tensor is not None for p in model.parameters() if len(p.sources) > 1 and len(p.shape) == 2
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_and_plain_generate_the_same(name: str) -> None:
    prompts = [[3, 1, 4, 1, 5], [9, 2]]
    rows = [
        Driver(_dummy(CONFIGS[name], "float32"), page_size=4, max_length=48, ops=ops).generate(
            prompts, new_tokens=6
        )
        for ops in (OpTable(OPS), OpTable(OPS, Packer().kernels))
    ]
    for plain, packed in zip(*rows, strict=True):
        assert plain.generated == packed.generated
        assert torch.equal(torch.cat(plain.logits), torch.cat(packed.logits))
