"""Damaged files: the result is a checkpoint or a ``CheckpointError``, in bounded memory."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tupelo.checkpoint import open_checkpoint, parse_hf_config
from tupelo.errors import CheckpointError

MAX_BYTES = 8 << 20  # what reading a file of some kilobytes may allocate at most
SETTINGS = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def open_and_read(path: Path) -> str:
    """Open ``path``, read all its tensors, and say how it ended: "read", or the error's message."""
    tracemalloc.start()
    try:
        # Damaged scales overflow to infinity in the dequantisers: values, not errors.
        with np.errstate(all="ignore"):
            for _ in open_checkpoint(path).iter_tensors():
                pass
        ended = "read"
    except CheckpointError as error:
        ended = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MAX_BYTES
    assert len(ended) < 1000
    return ended


def damaged(data: bytes, edits: list[tuple[int, bytes]], keep: float) -> bytes:
    """``data`` with bytes and words replaced and its end cut off."""
    changed = bytearray(data)
    for position, value in edits:
        start = position % len(changed)
        changed[start : start + len(value)] = value[: len(changed) - start]
    return bytes(changed[: int(len(changed) * keep)])


WORDS = [n.to_bytes(8, "little") for n in (0, 1, 2**31, 2**40, 2**63, 2**64 - 1)]
EDITS = st.lists(
    st.tuples(st.integers(0, 2**31), st.binary(min_size=1, max_size=1) | st.sampled_from(WORDS)),
    max_size=4,
)
KEEP = st.one_of(st.just(1.0), st.floats(0, 1))


@pytest.fixture
def gguf_bytes(write_gguf: Any, gguf_keys: Any, gguf_tensors: dict[str, np.ndarray]) -> bytes:
    keys = {
        **gguf_keys(),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token{i}" for i in range(64)],
        "tokenizer.ggml.token_type": [1] * 64,
        "tokenizer.ggml.eos_token_id": 2,
    }
    kind = gguf.GGMLQuantizationType.Q4_0
    stored: dict[str, Any] = {
        n: (gguf.quants.quantize(a, kind), kind) if a.ndim == 2 else a
        for n, a in gguf_tensors.items()
    }
    path = write_gguf("llama", keys, stored)
    data = path.read_bytes()
    assert open_and_read(path) == "read"
    return bytes(data)


@SETTINGS
@given(edits=EDITS, keep=KEEP, in_header=st.booleans())
def test_damaged_gguf(
    edits: list[tuple[int, bytes]], keep: float, in_header: bool, gguf_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.gguf"
    size = 3000 if in_header else len(gguf_bytes)  # the header is where damage matters
    path.write_bytes(damaged(gguf_bytes, [(p % size, v) for p, v in edits], keep))
    open_and_read(path)


@pytest.fixture
def safetensors_folder(
    tmp_path: Path, llama_config: dict[str, Any], write_safetensors: Any
) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(llama_config))
    write_safetensors({n: np.ones((4, 4), np.float32) for n in "abc"})
    assert open_and_read(tmp_path) == "read"
    return tmp_path


@SETTINGS
@given(edits=EDITS, keep=KEEP)
def test_damaged_safetensors(
    edits: list[tuple[int, bytes]], keep: float, safetensors_folder: Path
) -> None:
    path = safetensors_folder / "model.safetensors"
    sound = path.read_bytes()
    try:
        path.write_bytes(damaged(sound, edits, keep))
        open_and_read(safetensors_folder)
    finally:
        path.write_bytes(sound)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**320), 10**320)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["default", "linear", "llama3", "dynamic", "yarn", "longrope"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["rope_type", "type", "factor", "rope_theta", "full_attention", "mscale"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)
FIELDS = (
    *("architectures", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "intermediate_size", "hidden_act", "rms_norm_eps"),
    *("max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "dtype"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "eos_token_id"),
    *("query_pre_attn_scalar", "sliding_window_pattern", "partial_rotary_factor"),
    "original_max_position_embeddings",
)


@pytest.mark.parametrize(
    "architecture",
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Gemma3ForCausalLM"],
)
@SETTINGS
@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, min_size=1, max_size=3))
def test_configuration_with_any_values(
    architecture: str, changes: dict[str, Any], llama_config: dict[str, Any]
) -> None:
    config = {**llama_config, "architectures": [architecture], **changes}
    model, message = None, ""
    try:
        model = parse_hf_config(config)
    except CheckpointError as error:
        message = str(error)
    assert len(message) < 2500
    if model is not None:
        assert model.num_heads % model.num_kv_heads == 0
        assert len(model.windows) == len(model.rope_kinds) == model.num_layers
        assert model.rope(model.num_layers - 1).rotary_dim <= model.head_dim
