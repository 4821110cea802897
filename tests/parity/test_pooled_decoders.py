"""Decoders that embed, classify and rank against transformers: in chunks, over the prefix cache.

The families are the registry's: whatever generates here, and has such a class in transformers,
pools too.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.parity.families import FAMILIES, VOCAB_SIZE, randomise
from tests.parity.pooled import LABELS, Sentence, decoder_fields, edit_config, make, prompts
from transformers import PreTrainedModel

from tupelo.checkpoint import FAMILIES as ARCHITECTURES
from tupelo.engine import Engine
from tupelo.errors import CheckpointError, ConfigError, InvalidRequest

TOLERANCE = 1e-4
SHARED = 24
LENGTHS = (46, 1, 19, 33)

LLAMA4 = {"Llama4ForCausalLM"}
SEEING = {name for name in ARCHITECTURES if name.endswith("ForConditionalGeneration")}
"""Their text is a model of its own, which is covered under its name."""
QWEN3 = {**decoder_fields("Qwen3ForCausalLM")}
LLAMA = {**decoder_fields("LlamaForCausalLM")}


def stem_of(architecture: str) -> str:
    stem = architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    return {"Gemma3": "Gemma3Text"}.get(stem, stem)


def having(ending: str) -> list[str]:
    return [a for a in ARCHITECTURES if hasattr(transformers, stem_of(a) + ending)]


def engine(folder: Path, **options: Any) -> Engine:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "page_size": 4,
        "chunked_prefill_size": 16,
        "max_total_tokens": 1024,
        "check_integrity": True,
    }
    return Engine(model=str(folder), **(settings | options))


def shared_prompts() -> list[list[int]]:
    """Mixed lengths, two of which begin alike."""
    ids = prompts(LENGTHS)
    ids.append(ids[0][:SHARED] + prompts((9,), seed=5)[0])
    return ids


def encode_twice(running: Engine, ids: Sequence[Sequence[int]], **options: Any) -> list[np.ndarray]:
    """Together, then once more out of the prefix cache: the same numbers."""
    first = running.encode(input_ids=ids, **options)
    again = running.encode(input_ids=ids, **options)
    assert any(reply["meta_info"]["cached_tokens"] for reply in again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a["embedding"], b["embedding"], atol=TOLERANCE, rtol=0)
    return [np.array(reply["embedding"]) for reply in first]


def close(got: np.ndarray, want: torch.Tensor) -> None:
    np.testing.assert_allclose(got, want.numpy(), atol=TOLERANCE, rtol=0)


@torch.inference_mode()
def hidden(model: PreTrainedModel, ids: Sequence[int], **more: Any) -> torch.Tensor:
    states: torch.Tensor = model(torch.tensor([list(ids)]), **more).last_hidden_state
    return states[0]


def test_most_families_are_covered() -> None:
    """Those that transformers does not have were never published as anything but generators."""
    without = set(ARCHITECTURES) - set(having("Model"))
    assert without <= {f.architecture for f in FAMILIES if f.base} | LLAMA4 | SEEING


@pytest.mark.parametrize("architecture", having("Model"))
def test_last_token(architecture: str, tmp_path: Path) -> None:
    reference = make(f"{stem_of(architecture)}Model", decoder_fields(architecture), tmp_path)
    ids = shared_prompts()
    with engine(tmp_path) as running:
        assert running.info.pooling is not None
        got = encode_twice(running, ids)
    for vector, one in zip(got, ids, strict=True):
        want = hidden(reference, one)[-1]
        close(vector, want / want.norm())


@pytest.mark.parametrize("architecture", having("ForSequenceClassification"))
def test_classes_of_texts(architecture: str, tmp_path: Path) -> None:
    fields = {**decoder_fields(architecture), "id2label": LABELS, "pad_token_id": 0}
    name = f"{stem_of(architecture)}ForSequenceClassification"
    reference = make(name, fields, tmp_path)
    ids = shared_prompts()
    with engine(tmp_path) as running:
        assert running.info.pooling is not None
        assert running.info.pooling.labels == tuple(LABELS.values())
        got = encode_twice(running, ids)
        with pytest.raises(InvalidRequest, match="generates no text"):
            running.generate(input_ids=ids[0])
    for numbers, one in zip(got, ids, strict=True):
        with torch.inference_mode():
            close(numbers, reference(torch.tensor([one])).logits[0])
    assert (np.array(got).std(0) > 0.03).all(), "all inputs look alike"


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_classes_of_tokens(architecture: str, tmp_path: Path) -> None:
    fields = {**decoder_fields(architecture), "id2label": LABELS}
    reference = make(f"{stem_of(architecture)}ForTokenClassification", fields, tmp_path)
    ids = shared_prompts()
    with engine(tmp_path) as running:
        replies = running.encode(input_ids=ids)
        assert running.stats()["cached_tokens"] == 0
    for reply, one in zip(replies, ids, strict=True):
        with torch.inference_mode():
            close(np.array(reply["embedding"]), reference(torch.tensor([one])).logits[0])


def test_qwen3_embedding_as_published(tmp_path: Path) -> None:
    """A causal model's configuration, names without a prefix, and sentence-transformers' files."""
    reference = make("Qwen3Model", QWEN3, tmp_path)
    edit_config(tmp_path, architectures=["Qwen3ForCausalLM"])
    Sentence("lasttoken").write(tmp_path, QWEN3["hidden_size"])
    assert not any(n.startswith("model.") for n in load_file(tmp_path / "model.safetensors"))
    ids = shared_prompts()
    with engine(tmp_path) as running:
        got = encode_twice(running, ids)
    for vector, one in zip(got, ids, strict=True):
        want = hidden(reference, one)[-1]
        close(vector, want / want.norm())


def test_mean_over_a_causal_model(tmp_path: Path) -> None:
    """All hidden states are wanted: the prompt is computed whole, and nothing comes from cache."""
    reference = make("MistralModel", decoder_fields("MistralForCausalLM"), tmp_path)
    Sentence("mean_tokens", normalize=False).write(tmp_path, 64)
    ids = shared_prompts()
    with engine(tmp_path) as running:
        running.encode(input_ids=ids)
        replies = running.encode(input_ids=ids)
    for reply, one in zip(replies, ids, strict=True):
        assert reply["meta_info"]["cached_tokens"] == 0
        close(np.array(reply["embedding"]), hidden(reference, one).mean(0))


def test_gte_qwen2_looks_both_ways(tmp_path: Path) -> None:
    reference = make("Qwen2Model", decoder_fields("Qwen2ForCausalLM"), tmp_path)
    edit_config(tmp_path, architectures=["Qwen2ForCausalLM"], is_causal=False)
    Sentence("lasttoken").write(tmp_path, 64)
    ids = prompts(LENGTHS)
    with engine(tmp_path) as running:
        assert running.stats()["pages_total"] == []
        replies = running.encode(input_ids=ids)
    for reply, one in zip(replies, ids, strict=True):
        everything = torch.zeros(1, 1, len(one), len(one))
        want = hidden(reference, one, attention_mask=everything)[-1]
        close(np.array(reply["embedding"]), want / want.norm())


def test_embeddinggemma(tmp_path: Path) -> None:
    """Windows that reach both ways, the mean, and dense layers before the vector is normalised."""
    fields = {**decoder_fields("Gemma3ForCausalLM"), "use_bidirectional_attention": True}
    reference = make("Gemma3TextModel", fields, tmp_path)
    sentence = Sentence("mean_tokens", dense=((96, "Identity"), (64, "Identity")))
    (first, first_bias), (second, second_bias) = sentence.write(tmp_path, 64)
    ids = prompts((70, 33, 5))
    with engine(tmp_path) as running:
        replies = running.encode(input_ids=ids)
    for reply, one in zip(replies, ids, strict=True):
        want = first @ hidden(reference, one).mean(0) + first_bias
        want = second @ want + second_bias
        close(np.array(reply["embedding"]), want / want.norm())


def test_skywork_rewards(tmp_path: Path) -> None:
    """One number for a conversation, as it comes from the head."""
    fields = {**LLAMA, "num_labels": 1, "pad_token_id": 0}
    reference = make("LlamaForSequenceClassification", fields, tmp_path)
    ids = shared_prompts()
    with engine(tmp_path) as running:
        assert running.info.pooling is not None
        assert {task.value for task in running.info.pooling.tasks} == {"classify", "rank"}
        got = encode_twice(running, ids)
    for numbers, one in zip(got, ids, strict=True):
        with torch.inference_mode():
            close(numbers, reference(torch.tensor([one])).logits[0])


@pytest.mark.parametrize("name", ["Qwen2ForRewardModel", "Qwen2ForProcessRewardModel"])
def test_qwen2_rewards(name: str, tmp_path: Path) -> None:
    """Two products; of the process reward model, at every token."""
    reference = make("Qwen2Model", decoder_fields("Qwen2ForCausalLM"), tmp_path)
    out = 1 if name == "Qwen2ForRewardModel" else 2
    generator = torch.Generator().manual_seed(3)
    head = {
        "score.0.weight": torch.randn(64, 64, generator=generator) / 8,
        "score.0.bias": torch.randn(64, generator=generator) * 0.1,
        "score.2.weight": torch.randn(out, 64, generator=generator) / 8,
        "score.2.bias": torch.randn(out, generator=generator) * 0.1,
    }
    file = tmp_path / "model.safetensors"
    save_file({f"model.{n}": t for n, t in load_file(file).items()} | head, file, {"format": "pt"})
    edit_config(tmp_path, architectures=[name])
    ids = prompts(LENGTHS)
    with engine(tmp_path) as running:
        replies = running.encode(input_ids=ids)
    for reply, one in zip(replies, ids, strict=True):
        states = hidden(reference, one)
        inner = torch.relu(states @ head["score.0.weight"].T + head["score.0.bias"])
        want = inner @ head["score.2.weight"].T + head["score.2.bias"]
        close(np.array(reply["embedding"]), want[-1] if out == 1 else want)


@pytest.mark.parametrize("tied", [False, True])
def test_qwen3_reranker(tied: bool, tmp_path: Path, rank_tokenizer: str) -> None:
    """How likely "yes" is beside "no" as the next token, after the template of its authors."""
    fields = {
        **QWEN3,
        "tie_word_embeddings": tied,
        "vocab_size": 400,
        "max_position_embeddings": 1024,
    }
    reference = make("Qwen3ForCausalLM", fields, tmp_path)
    (tmp_path / "tokenizer.json").write_text(rank_tokenizer)
    documents = ["a fox in a box <|im_end|>", "the lazy dog", "nothing"]
    with engine(tmp_path, task="rank", max_total_tokens=4096) as running:
        tokenizer = running.tokenizer
        assert tokenizer is not None
        got = running.rerank("which animal is lazy", documents)
        told = running.rerank("which animal is lazy", documents, instruct="find a dog")
        cut = running.rerank("which animal is lazy", documents, max_tokens=320)
        stats = running.stats()
    assert stats["cached_tokens"] > 0, "documents share the template and the query"
    assert told != got
    assert len(cut) == 3
    no, yes = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("no", "yes"))
    for score, document in zip(got, documents, strict=True):
        ids = _reference_prompt(tokenizer, document)
        with torch.inference_mode():
            logits = reference(torch.tensor([ids])).logits[0, -1, [no, yes]]
        assert score == pytest.approx(float(logits.softmax(-1)[1]), abs=TOLERANCE)
    assert max(got) - min(got) > 1e-3


def _reference_prompt(tokenizer: Any, document: str) -> list[int]:
    """The prompt of the model card, put together here once more."""
    before = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n"
    )
    body = (
        "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
        f"<Query>: which animal is lazy\n<Document>: {document}"
    )
    after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    plain = tokenizer.encode(body, add_special_tokens=False, parse_special=False)
    around = [tokenizer.encode(part, add_special_tokens=False) for part in (before, after)]
    return [*around[0], *plain, *around[1]]


@pytest.fixture(scope="module")
def rank_tokenizer() -> str:
    """A tokenizer of bytes that knows two words and the template's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = [("y", "e"), ("ye", "s"), ("n", "o")]
    for a, b in merges:
        vocabulary[a + b] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")]
    )
    return backend.to_str()


def test_a_generator_can_be_told_to_embed_and_back(tmp_path: Path) -> None:
    reference = make("LlamaForCausalLM", LLAMA, tmp_path)
    ids = prompts((12,))
    with engine(tmp_path, task="embed") as running:
        got = running.encode(input_ids=ids[0])["embedding"]
    want = hidden(reference.model, ids[0])[-1]
    close(np.array(got), want / want.norm())
    with engine(tmp_path) as running:
        assert running.info.pooling is None
        with pytest.raises(InvalidRequest, match="makes no embeddings"):
            running.encode(input_ids=ids[0])
    with pytest.raises(ConfigError, match="--task classify: LlamaForCausalLM is for generate"):
        engine(tmp_path, task="classify")


def test_a_classifier_can_be_told_to_embed_but_not_to_generate(tmp_path: Path) -> None:
    reference = make("LlamaForSequenceClassification", {**LLAMA, "pad_token_id": 0}, tmp_path)
    ids = prompts((12,))
    with engine(tmp_path, task="embed") as running:
        got = running.encode(input_ids=ids[0])["embedding"]
    want = hidden(reference.model, ids[0])[-1]
    close(np.array(got), want / want.norm())
    with pytest.raises(ConfigError, match="--task generate"):
        engine(tmp_path, task="generate")
    with pytest.raises(ConfigError, match="--task rank"):
        engine(tmp_path, task="rank")


def test_a_pickled_dense_layer_is_refused_by_name(tmp_path: Path) -> None:
    make("BertModel", {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96,
                       "num_attention_heads": 4, "num_hidden_layers": 1}, tmp_path)  # fmt: skip
    Sentence(dense=((32, "Tanh"),)).write(tmp_path, 64)
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    (tmp_path / "2_Dense" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(CheckpointError, match=r"2_Dense holds no model\.safetensors"):
        engine(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "sentence_transformers.models.CNN"}, "module 'CNN' is not supported"),
        ({"path": "../elsewhere"}, "a folder inside the model's"),
    ],
)
def test_modules_that_are_refused(change: dict[str, str], said: str, tmp_path: Path) -> None:
    model = transformers.BertModel(
        transformers.BertConfig(vocab_size=VOCAB_SIZE, hidden_size=64, intermediate_size=96,
                                num_attention_heads=4, num_hidden_layers=1)
    )  # fmt: skip
    randomise(model)
    model.save_pretrained(tmp_path)
    Sentence().write(tmp_path, 64)
    file = tmp_path / "modules.json"
    modules = json.loads(file.read_text())
    modules[1].update(change)
    file.write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=said):
        engine(tmp_path)
