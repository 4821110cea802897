"""Tokenizers built from GGUF metadata: algorithms, splitting rules, cache."""

import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gguf import GGUFWriter
from tests.unit.text.conftest import (
    byte_level_metadata,
    sentencepiece_metadata,
    sentencepiece_models,
    tokenizer_of,
)
from tokenizers import Regex, pre_tokenizers

from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.text.gguf_facts import facts_from_gguf
from tupelo.text.gguf_pre import pre_rule
from tupelo.text.gguf_vocab import tokenizer_from_gguf
from tupelo.text.tokenizer import load_tokenizer

NOT_BUILT = {"mmbert", "whitespace", "jina-v1-en", "jina-v2-code", "roberta-bpe"}
OWN_CODE = {"kimi-k2", "afmoe"}
"""Values that llama.cpp splits by code, so that its table has no pattern to compare with."""

TEXTS = [
    "I'M you'LL don't we've 12345678 1,234.5 ABCdef GhiJKL x_y",
    "漢字かな交じり文 한글 Größe école １２３ ² ½",
    "  lead\r\n\r\n  y   \t\t z \n\n\nend  ",
    "(a|b) {x: [1,2]} ``` $5 + <tag> ~^ …!? “quoted”",
    " " * 40 + "x" + " " * 700 + "\n",
    "DŽ ǅ ʰ ªº 𝒜 🙂🙂 👩‍👩‍👧",
]


def split(patterns: tuple[str, ...] | list[str], text: str) -> list[str]:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return [piece for piece, _ in pre_tokenizers.Sequence(steps).pre_tokenize_str(text)]


def test_every_rule_against_llama_cpps_table(formats_dir: Path) -> None:
    """Its dialect approximates the models' own patterns at marks and accented capitals: those
    are left out, and ``test_rule_by_example`` has some.
    """
    table = json.loads((formats_dir / "gguf_pre.json").read_text())["pre"]
    golden = json.loads((formats_dir / "golden.json").read_text())["cases"]
    texts = [*TEXTS, *(case["text"] for case in golden)]
    texts = [t for t in texts if not any(unicodedata.category(c)[0] == "M" for c in t)]
    assert len(texts) > 60
    for name in sorted(set(table) - NOT_BUILT):
        rule, facts = pre_rule(name), table[name]
        flags = facts["flags"]
        assert rule.byte_level == facts["byte_encode"], name
        assert rule.ignore_merges == flags["ignore_merges"], name
        assert rule.add_bos == flags["add_bos_default"], name
        assert rule.has_bos != flags["no_bos_token"], name
        for text in texts if name not in OWN_CODE else ():
            assert split(rule.patterns, text) == split(facts["regexes"], text), (name, text)


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt-2", "don't  go 123", ["don", "'t", " ", " go", " 123"]),
        ("smollm", "a12", ["a", "1", "2"]),
        ("llama-bpe", "A'LL 12345", ["A", "'LL", " ", "123", "45"]),
        ("qwen2", "ab\n\n12", ["ab", "\n\n", "1", "2"]),
        ("qwen35", "नमस्ते x", ["नमस्ते", " x"]),
        ("gpt-4o", "fooBAR's ÉCOLE नमस्ते", ["foo", "BAR's", " ÉCOLE", " नमस्ते"]),
        ("tekken", "camelCase12", ["camel", "Case", "1", "2"]),
        ("deepseek-v3", "漢字abc1234", ["漢字", "abc", "123", "4"]),
        ("kimi-k2", "漢字abcDef12345", ["漢字", "abc", "Def", "123", "45"]),
        ("afmoe", "12345678 x", ["12", "345", "678", " x"]),
        ("superbpe", "1234567", ["1", "234", "567"]),
        ("gemma4", "a b\n\nc", ["a b", "\n\n", "c"]),
        ("default", "a=1234", ["a", "=", "123", "4"]),
    ],
)
def test_rule_by_example(name: str, text: str, pieces: list[str]) -> None:
    assert split(pre_rule(name).patterns, text) == pieces


def test_unknown_rule_is_refused_by_name() -> None:
    metadata = byte_level_metadata() | {"tokenizer.ggml.pre": "novel-bpe"}
    with pytest.raises(UnsupportedModel, match=r"'novel-bpe' is not known.*known: .*llama-bpe"):
        tokenizer_from_gguf(metadata)


@pytest.mark.parametrize("model", ["t5", "rwkv", "plamo2", "None"])
def test_unknown_algorithm_is_refused_by_name(model: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"'{model}' has no implementation.*known: bert"):
        tokenizer_from_gguf(byte_level_metadata() | {"tokenizer.ggml.model": model})


@pytest.mark.parametrize("model", sentencepiece_models(), ids=["space-prefix", "no-prefix"])
def test_sentencepiece_ids_are_sentencepieces(model: dict[str, Any]) -> None:
    tokenizer = tokenizer_of(sentencepiece_metadata(model))
    for case in model["cases"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=False, parse_special=False)
        assert ids == case["ids"], case["text"]
        assert tokenizer.decode(ids) == case["decoded"]
    assert tokenizer.encode("a")[0] == 1, "BOS is the default of this algorithm"
    assert tokenizer.eos_token_ids == (2,)


def test_sentencepiece_merges_by_score_not_by_id() -> None:
    """The same model with its vocabulary in another order gives the same pieces."""
    model = sentencepiece_models()[0]
    order = [0, 1, 2, *reversed(range(3, len(model["tokens"])))]
    shuffled = {
        key: [model[key][i] for i in order] if key in ("tokens", "scores", "types") else value
        for key, value in model.items()
    }
    tokenizer = tokenizer_of(sentencepiece_metadata(shuffled))
    for case in model["cases"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=False, parse_special=False)
        assert [order[i] for i in ids] == case["ids"], case["text"]


def test_user_defined_tokens_are_found_in_plain_text() -> None:
    model = sentencepiece_models()[1]
    metadata = sentencepiece_metadata(model)
    size = len(model["tokens"])
    metadata["tokenizer.ggml.tokens"] = [*model["tokens"], "<b>"]
    metadata["tokenizer.ggml.scores"] = [*model["scores"], 0.0]
    metadata["tokenizer.ggml.token_type"] = [*model["types"], 4]
    tokenizer = tokenizer_of(metadata)
    assert size in tokenizer.encode("a<b>c", parse_special=False)
    assert tokenizer.decode(tokenizer.encode("a<b>c")) == "a<b>c"


def test_word_piece_equals_berts() -> None:
    words = ["the", "dog", "un", "##aff", "##able", "##s", "run", ".", ",", "caf", "##e", "日"]
    original = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    expected = tokenizers.implementations.BertWordPieceTokenizer(
        {token: i for i, token in enumerate(original)}
    )
    converted = original[:4] + [
        word.removeprefix("##") if word.startswith("##") else f"\u2581{word}" for word in words
    ]
    tokenizer = tokenizer_of(
        {
            "tokenizer.ggml.model": "bert",
            "tokenizer.ggml.tokens": converted,
            "tokenizer.ggml.token_type": [3] * 4 + [1] * len(words),
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.seperator_token_id": 3,
            "tokenizer.ggml.unknown_token_id": 1,
        }
    )
    for text in ["The dogs run.", "unaffable, café", "日 zzz", ""]:
        assert tokenizer.encode(text) == expected.encode(text).ids, text
    assert tokenizer.decode(tokenizer.encode("the dogs run")) == "the dogs run"


def test_gemma4_marks_spaces_and_takes_newlines_whole() -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{b:02X}>" for b in range(256))]
    tokens += ["\u2581", "a", "b", "\n", "\n\n", "\n\n\n", "\u2581a", "\u2581ab"]
    tokenizer = tokenizer_of(
        {
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.pre": "gemma4",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 4 + [6] * 256 + [1] * 8,
            "tokenizer.ggml.merges": ["\u2581 a", "\u2581a b"],
            "tokenizer.ggml.bos_token_id": 2,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.unknown_token_id": 3,
        }
    )
    ids = tokenizer.encode("a ab\n\n\nb é")
    pieces = ["<bos>", "a", "\u2581ab", "\n\n\n", "b", "\u2581", "<0xC3>", "<0xA9>"]
    assert [tokenizer.id_to_token(i) for i in ids] == pieces
    assert tokenizer.decode(ids) == "a ab\n\n\nb é"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.merges": []}, "no tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["ab"]}, "no pair"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type has 1 entries"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id = 1000000 is outside"),
    ],
)
def test_broken_metadata(change: dict[str, Any], message: str) -> None:
    metadata = byte_level_metadata() | change
    with pytest.raises(CheckpointError, match=message):
        tokenizer_of(metadata)


def test_missing_tokens_and_scores() -> None:
    metadata = byte_level_metadata()
    del metadata["tokenizer.ggml.tokens"]
    with pytest.raises(CheckpointError, match=r"no tokenizer\.ggml\.tokens"):
        tokenizer_from_gguf(metadata)
    with pytest.raises(CheckpointError, match="no scores"):
        tokenizer_from_gguf(byte_level_metadata() | {"tokenizer.ggml.model": "llama"})


def test_end_ids() -> None:
    """The file's own first, then control tokens known to end a turn; harmony's <|end|> does not."""
    metadata = byte_level_metadata()
    size = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += ["<|im_end|>", "<|eot_id|>", "<|im_end|>x"]
    metadata["tokenizer.ggml.token_type"] += [3, 1, 3]
    metadata["tokenizer.ggml.eos_token_id"] = 1
    metadata["tokenizer.ggml.eot_token_id"] = 5
    assert facts_from_gguf(metadata).eos_token_ids == (1, 5, size, 0)
    metadata["tokenizer.ggml.tokens"] += ["<|return|>"]
    metadata["tokenizer.ggml.token_type"] += [3]
    assert facts_from_gguf(metadata).eos_token_ids == (1, 5, size, size + 3)


def test_named_templates_and_framing() -> None:
    metadata = byte_level_metadata() | {
        "tokenizer.chat_template": "plain",
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }
    tokenizer = tokenizer_of(metadata)
    assert tokenizer.chat_templates == {"default": "plain", "tool_use": "tools"}
    assert tokenizer.adds_bos
    assert tokenizer.encode("") == [1, 0]
    assert tokenizer.encode("", add_special_tokens=False) == []


@pytest.fixture
def gguf_path(tmp_path: Path) -> Path:
    """A GGUF file with a SentencePiece tokenizer and no tensors."""
    metadata = sentencepiece_metadata(sentencepiece_models()[0])
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(metadata["tokenizer.ggml.tokens"])
    writer.add_token_scores(metadata["tokenizer.ggml.scores"])
    writer.add_token_types(metadata["tokenizer.ggml.token_type"])
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_conversion_is_kept_and_reused(gguf_path: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_tokenizer(gguf_path, cache_dir=cache)
    (entry,) = (cache / "tokenizers").iterdir()
    kept = json.loads(entry.read_text())
    kept["added_tokens"].append(
        {
            "id": first.vocab_size,
            "content": "<from-cache>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    )
    entry.write_text(json.dumps(kept))
    second = load_tokenizer(gguf_path, cache_dir=cache)
    assert second.token_to_id("<from-cache>") == first.vocab_size
    assert second.chat_template == "{{ messages }}"
    assert second.encode("the quick") == first.encode("the quick")


def test_unusable_cache_costs_time_only(
    gguf_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    ids = load_tokenizer(gguf_path, cache_dir=cache).encode("the quick")
    (entry,) = (cache / "tokenizers").iterdir()
    entry.write_text("{half a fi")
    with caplog.at_level(logging.INFO, "tupelo.text"):
        assert load_tokenizer(gguf_path, cache_dir=cache).encode("the quick") == ids
    assert "ignoring the cached tokenizer" in caplog.text
    assert json.loads(entry.read_text()), "the broken entry is replaced"
    blocked = tmp_path / "file"
    blocked.write_text("")
    with caplog.at_level(logging.INFO, "tupelo.text"):
        assert load_tokenizer(gguf_path, cache_dir=blocked).encode("the quick") == ids
    assert "is not cached" in caplog.text
