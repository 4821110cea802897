"""Every family against transformers: logits of every position, and greedy tokens.

A row's logits are compared where they were computed: in whole prompts, in chunks, in decoding, in
batches of mixed lengths, over pages of 1 and 16 tokens, within and beyond the windows.
"""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parity.families import FAMILIES, VOCAB_SIZE, Family
from tests.parity.harness import Driver, Row
from torch import Tensor
from transformers import PreTrainedModel

from tupelo.checkpoint import FAMILIES as ARCHITECTURES
from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.checkpoint.rope import ROPE_KINDS
from tupelo.models import Model, build_model
from tupelo.weights import load_weights

TOLERANCE = 1e-4
"""Logits of size 1 to 10 after 4 layers of float32 in another order of summation."""

NEW_TOKENS = 16
MAX_LENGTH = 128
WINDOW = 20


Saved = tuple[PreTrainedModel, Checkpoint, list[list[int]]]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.id)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The reference, its checkpoint on disk, and prompts."""
    chosen: Family = request.param
    folder = tmp_path_factory.mktemp(chosen.id)
    draw = random.Random(3)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(n)] for n in chosen.lengths]
    return chosen.save(folder), open_checkpoint(folder), prompts


def _load(checkpoint: Checkpoint, dtype: str = "float32") -> Model:
    model = build_model(checkpoint.config, dtype=dtype, max_length=MAX_LENGTH)
    load_weights(model, checkpoint, device="cpu", progress=False)
    return model


@torch.inference_mode()
def _expected(reference: PreTrainedModel, row: Row) -> Tensor:
    """Logits of every position that the row computed, from one dense pass."""
    logits: Tensor = reference(torch.tensor([row.ids[:-1]])).logits
    return logits[0].float()


@pytest.mark.parametrize("page_size", [1, 16], ids=lambda n: f"page{n}")
@pytest.mark.parametrize("chunk", [3, 16, 0], ids=lambda n: f"chunk{n or 'whole'}")
def test_logits_and_greedy_tokens(family: Saved, chunk: int, page_size: int) -> None:
    reference, checkpoint, prompts = family
    driver = Driver(_load(checkpoint), page_size=page_size, max_length=MAX_LENGTH)
    rows = driver.generate(prompts, new_tokens=NEW_TOKENS, chunk=chunk)
    for row in rows:
        expected = _expected(reference, row)
        assert expected.std() > 0.3, "logits too small for the tolerance to mean anything"
        torch.testing.assert_close(torch.cat(row.logits), expected, atol=TOLERANCE, rtol=0)
        assert row.generated == expected[row.num_prompt - 1 :].argmax(-1).tolist()


def test_bfloat16_is_as_close_as_transformers_is(
    family: Saved,
) -> None:
    """Both round to 8 bits after every op; neither may be much further from float32.

    The root mean square over all positions and the vocabulary is compared, where rounding errors
    average out: the factor leaves room for the places that round once more or less. With experts it
    is the median position's: where two score alike, rounding chooses, in either program, and what
    one chosen otherwise adds to its position drowns the rest.
    """
    reference, checkpoint, prompts = family
    driver = Driver(_load(checkpoint, "bfloat16"), page_size=16, max_length=MAX_LENGTH)
    rows = driver.generate(prompts, new_tokens=NEW_TOKENS)
    exact = torch.cat([_expected(reference, row) for row in rows])
    ours = torch.cat([logits for row in rows for logits in row.logits])
    rounded = reference.__class__.from_pretrained(
        checkpoint.path, dtype=torch.bfloat16, attn_implementation="eager"
    ).eval()
    theirs = torch.cat([_expected(rounded, row) for row in rows])
    error = _rms if checkpoint.config.experts is None else _median_rms
    assert error(ours - exact) < 1.25 * error(theirs - exact)


def _rms(x: Tensor) -> float:
    return float(x.pow(2).mean().sqrt())


def _median_rms(x: Tensor) -> float:
    return float(x.pow(2).mean(-1).sqrt().median())


def test_every_registered_architecture_has_a_case() -> None:
    assert {family.architecture for family in FAMILIES} == set(ARCHITECTURES)


def test_every_scaled_rope_goes_beyond_its_context() -> None:
    """Dynamic rope has a test of its own, below."""
    beyond = set()
    for family in FAMILIES:
        rope = family.fields.get("rope_parameters", {})
        fields = {**family.fields, **rope}
        context = fields.get("original_max_position_embeddings") or fields.get(
            "max_position_embeddings", MAX_LENGTH
        )
        if max(family.lengths) > context:
            beyond.add(rope.get("rope_type"))
    assert beyond >= set(ROPE_KINDS) - {"default", "dynamic"}


@pytest.mark.parametrize("chunk", [16, 0], ids=lambda n: f"chunk{n or 'whole'}")
@pytest.mark.parametrize("length", [60, 96])
def test_dynamic_rope_within_and_beyond_its_context(
    length: int, chunk: int, tmp_path: Path
) -> None:
    """The served length decides the frequencies; transformers takes the sequence's own."""
    family = Family("llama-dynamic", "LlamaForCausalLM", {
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    })  # fmt: skip
    reference = family.save(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    model = build_model(checkpoint.config, max_length=length)
    load_weights(model, checkpoint, device="cpu", progress=False)
    draw = random.Random(4)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(length)] for _ in range(2)]
    driver = Driver(model, page_size=16, max_length=length)
    for row in driver.generate(prompts, new_tokens=1, chunk=chunk):
        expected = _expected(reference, row)
        torch.testing.assert_close(torch.cat(row.logits), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("family_id", "windows", "layers"),
    [
        ("llama", [None], [(0, 1, 2)]),
        ("mistral-windowed", [WINDOW], [(0, 1, 2)]),
        ("gemma3", [None, WINDOW], [(2,), (0, 1, 3)]),
    ],
)
def test_page_groups(
    family_id: str, windows: list[int | None], layers: list[tuple[int, ...]], tmp_path: Path
) -> None:
    chosen = next(f for f in FAMILIES if f.id == family_id)
    chosen.save(tmp_path)
    config = open_checkpoint(tmp_path).config
    model = build_model(config, kv_dtype="bfloat16", max_length=MAX_LENGTH)
    assert [spec.window for spec in model.kv_specs] == windows
    assert [spec.layers for spec in model.kv_specs] == layers
    assert [spec.group for spec in model.kv_specs] == list(range(len(windows)))
    assert {spec.dtype for spec in model.kv_specs} == {"bfloat16"}
    assert {(spec.group, spec.window) for spec in model.attention_specs} == set(enumerate(windows))
    # A window that hides nothing is none.
    assert [s.window for s in build_model(config, max_length=WINDOW).kv_specs] == [None]


@pytest.mark.parametrize("family_id", ["mixtral", "qwen2-moe", "qwen3-moe", "glm4-moe"])
def test_experts_stored_as_one_tensor_load_alike(family_id: str, tmp_path: Path) -> None:
    chosen = next(f for f in FAMILIES if f.id == family_id)
    single, fused = tmp_path / "single", tmp_path / "fused"
    reference = chosen.save(single)
    reference.save_pretrained(fused, save_original_format=False)
    checkpoints = [open_checkpoint(folder) for folder in (single, fused)]
    assert len(checkpoints[1].tensors) < len(checkpoints[0].tensors)
    models = [_load(checkpoint) for checkpoint in checkpoints]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one.data, other.data)


def test_gpt2_as_it_was_first_published(tmp_path: Path) -> None:
    """Names without the common prefix, and the causal mask among the tensors."""
    chosen = next(f for f in FAMILIES if f.id == "gpt2")
    saved, published = tmp_path / "saved", tmp_path / "published"
    chosen.save(saved)
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(saved / "model.safetensors").items()
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    published.mkdir()
    save_file(tensors, published / "model.safetensors")
    (published / "config.json").write_bytes((saved / "config.json").read_bytes())
    models = [_load(open_checkpoint(folder)) for folder in (saved, published)]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one.data, other.data)
