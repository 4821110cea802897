"""What files say that a model pools: its architecture, its labels, sentence-transformers' own."""

import json
from pathlib import Path
from typing import Any

import pytest

from tupelo.checkpoint import PoolingConfig, parse_hf_config
from tupelo.checkpoint.pooling import split_name
from tupelo.checkpoint.sentence import read_modules
from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.pooling import PoolingKind, PoolingTask

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def pooling_of(architecture: str, **fields: Any) -> PoolingConfig:
    found = parse_hf_config({"architectures": [architecture], **SHAPE, **fields}).pooling
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "stem", "ending"),
    [
        ("LlamaForSequenceClassification", "Llama", "ForSequenceClassification"),
        ("MistralModel", "Mistral", "Model"),
        ("Qwen2ForProcessRewardModel", "Qwen2", "ForProcessRewardModel"),
        ("Gemma3TextModel", "Gemma3", "Model"),
        ("LlamaForCausalLM", "LlamaForCausalLM", ""),
        ("GPT2LMHeadModel", "GPT2LMHeadModel", ""),
        ("Model", "Model", ""),
    ],
)
def test_names(name: str, stem: str, ending: str) -> None:
    assert split_name(name) == (stem, ending)


@pytest.mark.parametrize(
    ("architecture", "task", "kind"),
    [
        ("BertModel", PoolingTask.EMBED, PoolingKind.CLS),
        ("XLMRobertaForSequenceClassification", PoolingTask.CLASSIFY, PoolingKind.CLS),
        ("ModernBertForTokenClassification", PoolingTask.CLASSIFY, PoolingKind.TOKENS),
        ("Qwen3Model", PoolingTask.EMBED, PoolingKind.LAST),
        ("Qwen2ForSequenceClassification", PoolingTask.CLASSIFY, PoolingKind.LAST),
        ("Qwen2ForProcessRewardModel", PoolingTask.CLASSIFY, PoolingKind.TOKENS),
    ],
)
def test_tasks(architecture: str, task: PoolingTask, kind: PoolingKind) -> None:
    found = pooling_of(architecture)
    assert (found.task, found.heads[""].kind) == (task, kind)


def test_a_generator_pools_nothing() -> None:
    assert parse_hf_config({"architectures": ["LlamaForCausalLM"], **SHAPE}).pooling is None


def test_a_classifier_of_texts_by_their_mean() -> None:
    found = pooling_of("ModernBertForSequenceClassification", classifier_pooling="mean")
    assert found.heads[""].kind is PoolingKind.MEAN


@pytest.mark.parametrize(
    ("fields", "labels", "activation"),
    [
        ({}, ("LABEL_0", "LABEL_1"), "softmax"),
        ({"num_labels": 1}, ("LABEL_0",), "sigmoid"),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b"), "softmax"),
        ({"problem_type": "multi_label_classification"}, ("LABEL_0", "LABEL_1"), "sigmoid"),
        ({"num_labels": 1, "problem_type": "regression"}, ("LABEL_0",), "identity"),
        (
            {"num_labels": 1, "sentence_transformers": {"activation_fn": "torch.nn.Identity"}},
            ("LABEL_0",),
            "identity",
        ),
        (
            {"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.Sigmoid"},
            ("LABEL_0",),
            "sigmoid",
        ),
    ],
)
def test_labels_and_scores(
    fields: dict[str, Any], labels: tuple[str, ...], activation: str
) -> None:
    found = pooling_of("BertForSequenceClassification", **fields)
    assert (found.labels, found.activation) == (labels, activation)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": {"zero": "a"}}, "id2label"),
        ({"id2label": ["a"]}, "id2label"),
        ({"num_labels": 0}, "num_labels"),
        ({"num_labels": 10**6}, "num_labels"),
        ({"sentence_transformers": {"activation_fn": "my.Function"}}, "activation"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
        ({"layer_norm_eps": -1}, "layer_norm_eps"),
    ],
)
def test_nonsense_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        pooling_of("BertForSequenceClassification", **fields)


def test_positions_of_roberta_begin_behind_the_padding() -> None:
    fields = {**SHAPE, "architectures": ["RobertaModel"]}
    config = parse_hf_config(fields)
    assert config.max_position_embeddings == 62
    assert config.encoder is not None
    assert config.encoder.first_position == 2
    with pytest.raises(CheckpointError, match="max_position_embeddings"):
        parse_hf_config({**fields, "max_position_embeddings": 2})


@pytest.mark.parametrize("architecture", ["WhateverModel", "BloomForSequenceClassification"])
def test_what_pools_and_has_no_family_is_refused_by_name(architecture: str) -> None:
    fields = {**SHAPE, "architectures": [architecture], "model_type": "bloom"}
    with pytest.raises(UnsupportedModel, match=f"{architecture}.*not supported"):
        parse_hf_config(fields)


def test_widths_that_vectors_may_be_cut_to() -> None:
    assert pooling_of("BertModel", matryoshka_dimensions=[16, 32]).dimensions == (16, 32)
    with pytest.raises(CheckpointError, match="matryoshka_dimensions"):
        pooling_of("BertModel", matryoshka_dimensions=[0])


def modules(folder: Path, *kinds: str, **pooling: Any) -> None:
    listed = [{"path": f"{i}_{k}" if i else "", "type": f"st.{k}"} for i, k in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, PoolingKind.CLS),
        ({"pooling_mode_lasttoken": True}, PoolingKind.LAST),
        ({"pooling_mode": "mean"}, PoolingKind.MEAN),
        ({"pooling_mode": "cls"}, PoolingKind.CLS),
    ],
)
def test_modules_say_how_vectors_are_made(
    pooling: dict[str, Any], kind: PoolingKind, tmp_path: Path
) -> None:
    modules(tmp_path, "Transformer", "Pooling", **pooling)
    found, tensors = read_modules(tmp_path, pooling_of("BertModel"), 32)
    assert found.heads[""].kind is kind
    assert not found.normalize
    assert tensors == {}


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "one at a time"),
    ],
)
def test_other_ways_are_refused_by_name(
    pooling: dict[str, Any], named: str, tmp_path: Path
) -> None:
    modules(tmp_path, "Transformer", "Pooling", **pooling)
    with pytest.raises(UnsupportedModel, match=named):
        read_modules(tmp_path, pooling_of("BertModel"), 32)


@pytest.mark.parametrize("content", ["{}", "[1]", "[", "null", ""])
def test_a_broken_list_of_modules_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match="modules"):
        read_modules(tmp_path, pooling_of("BertModel"), 32)


def test_lower_case_beyond_the_tokenizer_is_refused(tmp_path: Path) -> None:
    modules(tmp_path, "Transformer", "Pooling", pooling_mode_cls_token=True)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(UnsupportedModel, match="do_lower_case"):
        read_modules(tmp_path, pooling_of("BertModel"), 32)
