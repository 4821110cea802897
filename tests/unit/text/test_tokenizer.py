"""Tokenizers read from folders and files, against ids that other programs gave."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tests.unit.text.conftest import byte_level_metadata, tokenizer_of
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tupelo.errors import CheckpointError, InvalidRequest, TemplateError, UnsupportedModel
from tupelo.text.output import TextStream
from tupelo.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "",
    "Hello, world!",
    "  two  spaces, trailing ",
    "naïve café — déjà vu",
    "日本語と한국어 🙂👩‍👩‍👧",
    "line\nline\r\n\ttab\n\n\n",
    "x = [1, 22, 333, 4444]  # don't",
    "<s>special</s> [INST] inside",
]


@pytest.fixture(scope="module")
def smollm2(demo_gguf: Path) -> Tokenizer:
    return load_tokenizer(demo_gguf)


@pytest.fixture(scope="module")
def golden(formats_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((formats_dir / "golden.json").read_text())
    return found


def test_gguf_ids_are_llama_cpps(smollm2: Tokenizer, golden: dict[str, Any]) -> None:
    for case in golden["cases"]:
        text = case["text"]
        plain = smollm2.encode(text, add_special_tokens=False, parse_special=False)
        assert plain == case["ids"], text
        assert smollm2.encode(text, add_special_tokens=False) == case["ids_parse_special"], text
        assert smollm2.decode(case["ids"], skip_special_tokens=False) == text
    assert len(golden["cases"]) == 70


def test_gguf_facts(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token, smollm2.bos_token_id) == ("<|im_start|>", 1)
    assert smollm2.eos_token == "<|im_end|>"
    assert smollm2.eos_token_ids[0] == 2
    assert not smollm2.adds_bos
    assert set(range(17)) <= smollm2.special_ids
    assert "<|im_start|>" in smollm2.template_for(tools=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama-like byte-level tokenizer, trained here and saved as transformers saves it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 5, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    from transformers import PreTrainedTokenizerFast

    make: Any = PreTrainedTokenizerFast
    made = make(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    made.add_tokens(["[INST]"])
    made.chat_template = {"default": "plain", "tool_use": "with tools"}
    path = tmp_path_factory.mktemp("llamalike")
    made.save_pretrained(path)
    (path / "generation_config.json").write_text('{"eos_token_id": [1, 5]}')
    return path


def test_folder_equals_transformers(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for text in TEXTS:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids
            for skip in (True, False):
                expected = theirs.decode(ids, skip_special_tokens=skip)
                assert ours.decode(ids, skip_special_tokens=skip) == expected
    assert ours.encode_batch(TEXTS) == theirs(TEXTS)["input_ids"]
    assert ours.vocab_size == len(theirs)
    assert ours.special_ids == set(theirs.all_special_ids)
    assert ours.special_tokens == {k: str(v) for k, v in theirs.special_tokens_map.items()}


def test_folder_facts(folder: Path) -> None:
    ours = load_tokenizer(folder)
    assert ours.adds_bos
    assert (ours.bos_token_id, ours.eos_token_ids) == (0, (1, 5))
    assert ours.chat_template == "plain"
    assert ours.template_for(tools=True) == "with tools"
    assert ours.token_to_id("[INST]") is not None
    with pytest.raises(TemplateError, match="no chat template named 'rag'; it has: default"):
        ours.template_for(name="rag")


@pytest.mark.parametrize(
    ("add_bos", "add_eos", "expected"),
    [(False, False, []), (True, True, [0, 1]), (False, True, [1])],
    ids=["neither", "both", "eos-only"],
)
def test_config_decides_the_framing(
    folder: Path, tmp_path: Path, add_bos: bool, add_eos: bool, expected: list[int]
) -> None:
    for file in folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.update(add_bos_token=add_bos, add_eos_token=add_eos)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).encode("") == expected


def test_older_files_are_read(folder: Path, tmp_path: Path) -> None:
    """Added tokens and named tokens in tokenizer_config.json and special_tokens_map.json."""
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    size = load_tokenizer(folder).vocab_size
    added = {str(size): {"content": "<new>", "special": True, "normalized": False}}
    config = {"added_tokens_decoder": added, "chat_template": "inline", "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    named = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    ours = load_tokenizer(tmp_path)
    assert ours.encode("<new>", add_special_tokens=False) == [size]
    assert ours.special_tokens == {"bos_token": "<s>", "unk_token": "<unk>"}
    assert ours.token_to_id("<unk>") == size + 1
    assert ours.chat_template == "inline"
    (tmp_path / "chat_template.jinja").write_text("file")
    extra = tmp_path / "additional_chat_templates"
    extra.mkdir()
    (extra / "rag.jinja").write_text("rag")
    assert load_tokenizer(tmp_path).chat_templates == {"default": "file", "rag": "rag"}


def test_added_token_with_a_foreign_id_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = {"added_tokens_decoder": {"90000": {"content": "<far>"}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="'<far>' the id 90000"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"a": {}}}, "added_tokens_decoder"),
        ("tokenizer_config.json", {"chat_template": ["a"]}, "chat_template must be"),
        ("tokenizer_config.json", {"chat_template": [{"name": "a"}]}, "chat_template must be"),
        ("tokenizer_config.json", "[" * 100_000, "tokenizer_config.json is not valid JSON"),
        ("special_tokens_map.json", "[]", "special_tokens_map.json must hold a JSON object"),
        ("chat_template.json", {"chat_template": [1]}, "chat_template must be"),
        ("chat_template.jinja", b"\xff", "chat_template.jinja cannot be read"),
    ],
)
def test_a_broken_file_beside_it_is_named(
    file: str, content: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    data = json.dumps(content) if isinstance(content, dict) else content
    (tmp_path / file).write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tekken.json", "tiktoken.model", "vocab.txt"])
def test_other_formats_say_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x0a")
    with pytest.raises(UnsupportedModel, match=rf"\({name}\) but no tokenizer.json.*save_pretrain"):
        load_tokenizer(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match=r"expected a model folder.*or a file that ends in"):
        load_tokenizer(tmp_path / "absent.gguf")
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("bad", [-1, 10**9, 2**70, 1.5, "7", None], ids=str)
def test_ids_outside_the_vocabulary(byte_level: Tokenizer, bad: Any) -> None:
    for call in (
        lambda: byte_level.decode([5, bad]),
        lambda: byte_level.token_bytes(bad),
        lambda: byte_level.id_to_token(bad),
    ):
        with pytest.raises(InvalidRequest, match="outside the vocabulary"):
            call()


def test_ids_may_be_numpys(byte_level: Tokenizer) -> None:
    ids: Any = np.array(byte_level.encode("the 日"), dtype=np.int32)
    fresh = tokenizer_of(byte_level_metadata())
    assert fresh.decode(ids) == "the 日"
    assert TextStream(fresh).push(ids).text == "the 日"
    assert fresh.id_to_token(ids[0]) == "the"


def test_text_that_is_no_text(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match="unpaired surrogate at character 2"):
        byte_level.encode("ab\ud800")


def test_special_tokens_in_untrusted_text(byte_level: Tokenizer) -> None:
    text = "a<|end|>"
    assert byte_level.encode(text)[-1] == byte_level.token_to_id("<|end|>")
    plain = byte_level.encode(text, parse_special=False)
    assert not set(plain) & byte_level.special_ids
    assert byte_level.decode(plain) == text
    assert byte_level.encode(text)[-1] == byte_level.token_to_id("<|end|>")


def test_token_bytes(byte_level: Tokenizer, space_mark: Tokenizer) -> None:
    for text in TEXTS:
        ids = byte_level.encode(text)
        assert b"".join(map(byte_level.token_bytes, ids)) == text.encode()
        ids = space_mark.encode(text, add_special_tokens=False, parse_special=False)
        assert b"".join(map(space_mark.token_bytes, ids)).strip(b" ") == text.strip(" ").encode()
    assert byte_level.token_text(byte_level.encode("日")[0]) == "\ufffd"


def test_no_template_is_said_clearly(byte_level: Tokenizer) -> None:
    assert byte_level.chat_template is None
    with pytest.raises(TemplateError, match=r"no chat template.*use text completion"):
        byte_level.template_for()


def test_threads_agree(byte_level: Tokenizer) -> None:
    texts = [f"the other {n} <|end|> hello" for n in range(200)]
    expected = [
        (byte_level.encode(text), byte_level.encode(text, parse_special=False)) for text in texts
    ]
    with ThreadPoolExecutor(8) as pool:
        parsed = pool.map(byte_level.encode, texts)
        plain = pool.map(lambda text: byte_level.encode(text, parse_special=False), texts)
        assert list(zip(parsed, plain, strict=True)) == expected
