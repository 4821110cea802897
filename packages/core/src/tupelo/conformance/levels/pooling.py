"""Level 3: tiny models that make vectors through the whole engine, against the reference.

Encoders, which keep nothing, and a decoder, whose prompts come in chunks and out of the cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tupelo.backend import Backend, Capabilities
from tupelo.checkpoint import PoolingHead, parse_hf_config
from tupelo.config import EngineConfig
from tupelo.conformance.case import Case, check
from tupelo.conformance.levels.attention import page_sizes
from tupelo.conformance.levels.engine import VOCAB, prompts
from tupelo.conformance.target import Target
from tupelo.engine import Engine
from tupelo.engine.build import Source
from tupelo.pooling import PoolingKind

CLOSE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Allowed error of an element of a vector of length 1: two layers, each rounded several times."""

Doubles = np.ndarray[Any, np.dtype[np.float64]]


def pooling_cases(target: Target) -> Iterator[Case]:
    """The cases: ``pooling/MODEL/HOW``."""
    has = target.backend.capabilities
    dim = 16 if not has.head_dims else has.head_dims[0]
    for name, source in models(dim).items():
        expected = _Expected(source)
        for how, options in (
            ("together", {}),
            ("chunks", {"chunked_prefill_size": 16}),
            ("two_in_flight", {"pipeline_depth": 2, "max_running_requests": 2}),
        ):
            yield Case(f"pooling/{name}/{how}", 3, partial(expected.compare, target, options))


def models(head_dim: int) -> dict[str, Source]:
    """Two encoders and a decoder of two or three layers, for dummy weights."""
    bert = {"type_vocab_size": 2, "layer_norm_eps": 1e-6}
    windows = {"local_attention": 12, "global_attn_every_n_layers": 3, "num_hidden_layers": 3}
    return {
        "bert": _source("BertModel", head_dim, PoolingKind.MEAN, **bert),
        "modernbert": _source("ModernBertModel", head_dim, PoolingKind.CLS, **windows),
        "llama": _source("LlamaModel", head_dim, PoolingKind.LAST, num_key_value_heads=2),
    }


class _Expected:
    """The reference's vectors of one model, computed when the first case needs them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._vectors: list[Doubles] = []

    def compare(self, target: Target, options: dict[str, Any]) -> None:
        """The backend's vectors, twice: the second time prefixes may come from the cache."""
        limit = CLOSE[target.dtype]
        got = _vectors(target.backend, self._source, target.dtype, repeat=True, **options)
        for number, (ours, theirs) in enumerate(zip(got, self.vectors() * 2, strict=True)):
            off = float(np.abs(ours - theirs).max())
            check(off <= limit, f"vector {number} is off by {off:.3g}; allowed {limit:g}")

    def vectors(self) -> list[Doubles]:
        """The reference's, one prompt at a time."""
        if not self._vectors:
            reference = Backend(
                name="reference",
                device="cpu",
                capabilities=Capabilities(plan_needs_host_lens=True),
            )
            self._vectors = _vectors(reference, self._source, "float32", max_running_requests=1)
            apart = np.abs(self._vectors[0] - self._vectors[1]).max()
            assert apart > 100 * CLOSE["float32"], "the model makes the same of all prompts"
        return self._vectors


def _vectors(
    backend: Backend, source: Source, dtype: str, *, repeat: bool = False, **options: Any
) -> list[Doubles]:
    settings: dict[str, Any] = {
        "dtype": dtype,
        "page_size": min(page_sizes(backend.capabilities)),
        "max_total_tokens": 1024,
        "max_running_requests": 8,
        "check_integrity": True,
        "seed": 7,
    }
    config = EngineConfig(**(settings | options))
    replies: Sequence[dict[str, Any]] = []
    with Engine(config, backend=backend, source=source) as engine:
        for _ in range(1 + repeat):
            replies = [*replies, *engine.encode(input_ids=prompts())]
    return [np.array(reply["embedding"]) for reply in replies]


def _source(architecture: str, head_dim: int, kind: PoolingKind, **more: Any) -> Source:
    values: dict[str, Any] = {
        "architectures": [architecture],
        "vocab_size": VOCAB,
        "hidden_size": 4 * head_dim,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    config = parse_hf_config(values | more)
    assert config.pooling is not None
    pooling = replace(config.pooling, heads={"": PoolingHead(kind=kind)})
    return Source(
        config=replace(config, pooling=pooling), checkpoint=None, path="tiny", tokenizer_path=""
    )
