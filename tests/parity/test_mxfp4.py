"""GPT-OSS with experts in MXFP4, as it is published, against transformers' own decoding."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.families import FAMILIES
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tupelo.checkpoint import open_checkpoint
from tupelo.errors import CheckpointError
from tupelo.models import build_model
from tupelo.weights import load_weights


def _publish(folder: Path, source: Path) -> dict[str, Tensor]:
    """Write the checkpoint of ``source`` with random blocks for its experts; returns what these
    mean, in the layout of a plain checkpoint."""
    generator = torch.Generator().manual_seed(4)
    tensors, plain = load_file(source / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        shape = (experts, outputs, inputs // 32, 16)
        blocks = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        scales = torch.randint(121, 127, shape[:3], dtype=torch.uint8, generator=generator)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        plain[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return plain


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path, dict[str, Tensor]]:
    source, folder = tmp_path / "plain", tmp_path / "blocks"
    next(f for f in FAMILIES if f.id == "gpt-oss").save(source)
    return source, folder, _publish(folder, source)


def test_blocks_decode_as_transformers_does(
    published: tuple[Path, Path, dict[str, Tensor]],
) -> None:
    source, folder, plain = published
    tensors = load_file(source / "model.safetensors")
    save_file(
        {**tensors, **{n: t.contiguous() for n, t in plain.items()}}, source / "model.safetensors"
    )
    models = []
    for checkpoint in (open_checkpoint(source), open_checkpoint(folder)):
        model = build_model(checkpoint.config, max_length=64)
        load_weights(model, checkpoint, device="cpu", progress=False)
        models.append(model)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one.data, other.data)
    assert len(plain) == 8


def test_blocks_without_their_scales_are_refused(
    published: tuple[Path, Path, dict[str, Tensor]],
) -> None:
    _, folder, _ = published
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.experts.down_proj_scales")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers\.1.*down_proj_blocks.*no scales"):
        open_checkpoint(folder)
