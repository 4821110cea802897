"""T15: unique schemas without end: memory and disk stay within the bounds of the cache."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.security.grammars import body_for
from tests.security.guarded import Guarded
from tests.security.model import VOCAB, write_byte_model
from tests.unit.grammar.schemas import obj, whole

from tupelo.grammar import GrammarCompiler, GrammarOptions, read_vocabulary
from tupelo.request import Grammar
from tupelo.text.tokenizer import load_tokenizer

ENTRIES = 16


@pytest.fixture(scope="module")
def small_cache(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server that keeps few grammars, with its streams."""
    flags = ("--grammar-cache-entries", str(ENTRIES))
    with Guarded(byte_model, tmp_path_factory.mktemp("small"), *flags) as server:
        yield server


def unique(number: int) -> dict[str, object]:
    return obj({f"name_{number}_{i}": whole(0, number + i + 1) for i in range(6)})


def test_unique_schemas_over_http(small_cache: Guarded) -> None:
    with small_cache.besieged() as server:

        def ask(number: int) -> int:
            body = body_for("/v1/completions", "json_schema", unique(number), max_tokens=1)
            return server.post("/v1/completions", body).status_code

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(ask, range(300))) == {200}
        assert server.metric("tupelo:grammars_compiled_total") >= 300
        assert server.metric("tupelo:grammars_cached") <= ENTRIES
        writers = [server.engine, *server.engine.children(recursive=True)]
        assert len(writers) <= 4, "compiling processes do not add up"


def _many(folder: Path, count: int) -> int:
    """Bytes that a process gains by ``count`` unique schemas, after the first tenth of them."""
    tokenizer = load_tokenizer(write_byte_model(folder))
    compiler = GrammarCompiler(
        lambda: read_vocabulary(tokenizer, VOCAB, (0,)),
        VOCAB,
        GrammarOptions(cache_entries=64, cache_bytes=32 << 20),
    )
    me = psutil.Process()
    try:
        for number in range(count):
            if number == count // 10:
                before = me.memory_info().rss
            grammar = Grammar(kind="json_schema", text=json.dumps(unique(number)))
            compiler.compile(grammar).result()
        stats = compiler.stats()
        assert stats["grammars_cached"] <= 64
        assert stats["grammars_cached_bytes"] <= 32 << 20
        return int(me.memory_info().rss - before)
    finally:
        compiler.close()


def test_a_thousand_unique_schemas(tmp_path: Path) -> None:
    assert _many(tmp_path, 1000) < 64 << 20


@pytest.mark.long
def test_ten_thousand_unique_schemas(tmp_path: Path) -> None:
    assert _many(tmp_path, 10_000) < 64 << 20
