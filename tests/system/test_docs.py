"""Every command and program on the pages for users runs, and does what its page says."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system import doc_blocks
from tests.system.doc_blocks import NO_TASKS, NOT_RUN, PAGES, ROOT, URL, Block, blocks
from tests.system.harness import ServerProcess

TEMPLATE = Path(__file__).with_name("tools.jinja")
ALL = [block for page in PAGES if page not in NO_TASKS for block in blocks(page)]
DISTINCT = list({(block.language, block.text): block for block in reversed(ALL)}.values())[::-1]
SHORT = {"tupelo chat": "tupelo chat --max-tokens 16"}
"""Replies need not be long to show that they come."""
FIRST_MINUTES = [block for block in DISTINCT if block.page == "README.md" and block.needs_a_server]
SERVED = [
    block
    for block in DISTINCT
    if block.needs_a_server and block not in FIRST_MINUTES and "embeddings" not in block.page
]
ALONE = [
    block
    for block in DISTINCT
    if not block.needs_a_server
    and (block.language == "python" or any(c not in NOT_RUN for c in block.commands))
]


def test_the_list_of_what_is_not_run_is_true() -> None:
    """Its commands and pages are there; no command hides outside of what is run."""
    known = {command for block in ALL for command in block.commands}
    assert set(NOT_RUN) <= known
    assert set(NO_TASKS) <= set(PAGES)
    assert len(FIRST_MINUTES) >= 4
    hidden = re.compile(r"\n\n {4}(tupelo|curl|pip|python|from|import|client) ")
    for page in set(PAGES) - set(NO_TASKS):
        outside = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
        assert hidden.search(outside) is None, page


def test_commands_are_taken_apart() -> None:
    text = "a b \\\n  c  # why\n\n# alone\nd '\n# in it' | e\n"
    assert Block("x", 1, "bash", text).commands == ["a b    c", "d '\n# in it' | e"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("block", FIRST_MINUTES, ids=str)
def test_the_first_minutes(block: Block, server: ServerProcess, tmp_path: Path) -> None:
    assert len(doc_blocks.run(block, tmp_path, {URL: server.url, **SHORT})) > 3


@pytest.fixture(scope="module")
def with_tools(
    demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The demo model, with a chat template that takes tools."""
    flags = ["--chat-template", str(TEMPLATE)]
    with ServerProcess(demo_gguf, tmp_path_factory.mktemp("docs"), *flags) as running:
        yield running


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", SERVED, ids=str)
def test_what_needs_a_server(
    block: Block, with_tools: ServerProcess, demo_gguf: Path, tmp_path: Path
) -> None:
    words = {URL: with_tools.url, "path/to/model.gguf": str(demo_gguf), **SHORT}
    assert doc_blocks.run(block, tmp_path, words) or block.page == "docs/serving.md"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", ALONE, ids=str)
def test_what_needs_none(
    block: Block, demo_gguf: Path, minilm: Path, cross_encoder: Path, small: Path, tmp_path: Path
) -> None:
    words = {
        "path/to/model.gguf": str(demo_gguf),
        "path/to/model": str(small),
        "path/to/embedder": str(minilm),
        "path/to/reranker": str(cross_encoder),
        "sentence-transformers/all-MiniLM-L6-v2": str(minilm),
        **SHORT,
    }
    doc_blocks.run(block, tmp_path, words)


@pytest.mark.long
def test_embeddings(minilm: Path, cross_encoder: Path, tmp_path: Path) -> None:
    """The page's requests, the first to an embedding model, the others to a cross-encoder."""
    first, *others = (b for b in blocks("docs/embeddings.md") if b.needs_a_server)
    assert len(others) == 1
    for model, block in ((minilm, first), (cross_encoder, others[0])):
        with ServerProcess(model, tmp_path) as running:
            said = doc_blocks.run(block, tmp_path, {URL: running.url})
        assert said.count("{") >= len(block.commands)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_quickstart(tmp_path: Path) -> None:
    """The first command, with nothing there yet but Python and what pip has kept."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"TUPELO_VENV": str(tmp_path / "venv"), "TUPELO_PORT": str(port)}
    outside = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash", str(ROOT / "quickstart.sh"), "--once"],
        env={**outside, **own},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    assert "ready after" in done.stdout


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama: configuration, safetensors, tokenizer."""
    import torch
    from tests.system.tiny_model import write_letter_model
    from transformers import AutoConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("small")
    write_letter_model(folder)
    torch.manual_seed(1)
    LlamaForCausalLM(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny seeded classifier of pairs, with the embedding model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross")
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=130, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
