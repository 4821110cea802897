"""Loading: values, types, shards, and what is said of checkpoints that do not fit."""

from pathlib import Path

import pytest
import torch
from tests.unit.weights.tiny import GEMMA, LLAMA, TIED, build, by_source, tensors_of, write
from torch import Tensor

from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.models import Model
from tupelo.weights import convert, load_weights

DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("stored", DTYPES, ids=lambda d: f"from-{d}")
@pytest.mark.parametrize("wanted", DTYPES, ids=lambda d: f"to-{d}")
def test_every_tensor_arrives_in_the_models_type(stored: str, wanted: str, tmp_path: Path) -> None:
    tensors = tensors_of(LLAMA, getattr(torch, stored))
    checkpoint = write(tmp_path, LLAMA, tensors)
    model = build(checkpoint, wanted)
    report = load_weights(model, checkpoint, device="cpu", progress=False)
    loaded = by_source(model)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.to(getattr(torch, wanted))), name
    assert report.num_tensors == len(tensors)
    assert report.read_bytes == sum(t.nbytes for t in tensors.values())
    assert report.ignored == ()


def test_projections_of_one_input_are_stacked(tmp_path: Path) -> None:
    tensors = tensors_of(LLAMA)
    checkpoint = write(tmp_path, LLAMA, tensors)
    model = build(checkpoint)
    load_weights(model, checkpoint, device="cpu", progress=False)
    stacked = [p.data for p in model.parameters() if len(p.sources) > 1]
    attention = [f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"]
    mlp = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")]
    assert torch.equal(stacked[2], torch.cat([tensors[name] for name in attention]))
    assert torch.equal(stacked[3], torch.cat([tensors[name] for name in mlp]))


def test_shards_are_joined(tmp_path: Path) -> None:
    tensors = tensors_of(LLAMA)
    names = list(tensors)
    halves = [{n: tensors[n] for n in names[i::2]} for i in (0, 1)]
    checkpoint = write(tmp_path, LLAMA, *halves)
    model = build(checkpoint)
    load_weights(model, checkpoint, device="cpu", progress=False)
    assert all(torch.equal(part, tensors[name]) for name, part in by_source(model).items())


def test_gemma_norms_multiply_by_one_more_in_float32(tmp_path: Path) -> None:
    tensors = tensors_of(GEMMA, torch.bfloat16)
    checkpoint = write(tmp_path, GEMMA, tensors)
    model = build(checkpoint, "bfloat16")
    load_weights(model, checkpoint, device="cpu", progress=False)
    name = "model.layers.0.pre_feedforward_layernorm.weight"
    assert torch.equal(by_source(model)[name], tensors[name].float() + 1)


def test_pieces_do_not_change_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of(LLAMA, torch.bfloat16)
    checkpoint = write(tmp_path, LLAMA, tensors)
    monkeypatch.setattr(convert, "PIECE_BYTES", 200)  # three rows of 32 bfloat16
    model = build(checkpoint)
    load_weights(model, checkpoint, device="cpu", progress=False)
    assert all(torch.equal(part, tensors[name].float()) for name, part in by_source(model).items())


def test_a_tied_models_copy_of_its_head_is_ignored(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, TIED, tensors_of(LLAMA))
    report = load_weights(build(checkpoint), checkpoint, device="cpu", progress=False)
    assert report.ignored == ("lm_head.weight",)


def test_progress_counts_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write(tmp_path, LLAMA, tensors_of(LLAMA))
    report = load_weights(build(checkpoint), checkpoint, device="cpu")
    shown = capsys.readouterr().err
    assert "Loading weights: 100%" in shown
    assert f"{report.read_bytes / 1000:.1f}k" in shown


def _without(name: str) -> dict[str, Tensor]:
    return {n: t for n, t in tensors_of(LLAMA).items() if n != name}


_UP = "model.layers.1.mlp.up_proj.weight"
_EXTRA = "model.layers.0.self_attn.q_proj.bias"
BROKEN = {
    "missing": (_without(_UP), ["lacks 1 tensor", _UP]),
    "missing-head": (_without("lm_head.weight"), ["lacks 1 tensor", "lm_head.weight"]),
    "unknown": ({**tensors_of(LLAMA), _EXTRA: torch.zeros(32)}, ["has 1 tensor", _EXTRA]),
    "third-layer": (
        {**tensors_of(LLAMA), "model.layers.2.input_layernorm.weight": torch.zeros(32)},
        ["model.layers.2.input_layernorm.weight", "LlamaForCausalLM"],
    ),
    "shape": ({**tensors_of(LLAMA), _UP: torch.zeros(41, 32)}, [_UP, "[41, 32]", "[40, 32]"]),
    "transposed": ({**tensors_of(LLAMA), _UP: torch.zeros(32, 40)}, [_UP, "[32, 40]"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_does_not_fit_is_refused_before_loading(
    case: str, tmp_path: Path
) -> None:
    tensors, named = BROKEN[case]
    checkpoint = write(tmp_path, LLAMA, tensors)
    model = build(checkpoint)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, checkpoint, device="cpu", progress=False)
    assert all(part in str(caught.value) for part in named), str(caught.value)
    assert _is_empty(model)


def test_many_missing_tensors_make_a_short_message(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, LLAMA, {"model.norm.weight": torch.zeros(32)})
    with pytest.raises(CheckpointError, match=r"lacks 20 tensors: .* and 12 more$"):
        load_weights(build(checkpoint), checkpoint, device="cpu", progress=False)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    tensors = {**tensors_of(LLAMA), _UP: torch.zeros((40, 32), dtype=torch.int8)}
    checkpoint = write(tmp_path, LLAMA, tensors)
    with pytest.raises(UnsupportedModel, match="int8"):
        load_weights(build(checkpoint), checkpoint, device="cpu", progress=False)


def _is_empty(model: Model) -> bool:
    return all(parameter.tensor is None for parameter in model.parameters())
