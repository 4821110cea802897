"""Level 3: a tiny model with seeded weights through the whole engine, against the reference.

The reference is core's defaults on the CPU in float32, one request at a time, without cache, chunks
or steps in flight. A token may differ only where the reference hardly prefers its own; the rest of
that reply is then not compared.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from tupelo.backend import Backend, Capabilities
from tupelo.checkpoint import parse_hf_config
from tupelo.config import EngineConfig
from tupelo.conformance.case import Case, check
from tupelo.conformance.levels.attention import page_sizes
from tupelo.conformance.sweep import run_sweep
from tupelo.conformance.target import Target
from tupelo.engine import Engine
from tupelo.engine.build import Source

VOCAB = 320
NUM_PROMPTS, SHARED_TOKENS, NEW_TOKENS = 4, 20, 8
GREEDY = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}

CLOSE = {"float32": 5e-4, "float16": 5e-2, "bfloat16": 4e-1}
"""A token may differ where the reference's two best log-probabilities are closer than this."""

WHOLE = -1
"""The chunk size that cuts no prompt."""

COMBINATIONS = (
    # radix, chunk, one at a time, depth, largest page
    (True, 16, False, 1, False),
    (False, 64, True, 1, True),
    (True, WHOLE, True, 2, True),
    (False, 16, True, 2, False),
    (True, 64, False, 2, True),
    (False, WHOLE, False, 1, False),
    (True, 64, True, 1, False),
    (False, 16, False, 2, True),
)
"""Every pair of two settings occurs together."""

Reply = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Setup:
    """What all engines of one suite share."""

    source: Source
    dtype: str


def engine_cases(target: Target) -> Iterator[Case]:
    """The cases of level 3: ``engine/MODEL/CASE``."""
    has = target.backend.capabilities
    dim = 16 if not has.head_dims else has.head_dims[0]
    models = {
        "llama": (llama(dim), ""),
        "gemma3": (gemma3(dim), "" if has.window else "the backend does not declare window"),
    }
    for name, (source, skip) in models.items():
        expected = _Expected(_Setup(source, target.dtype))
        for settings in COMBINATIONS:
            run = partial(expected.greedy, target.backend, settings)
            yield Case(f"engine/{name}/greedy/{_label(target, settings)}", 3, run, skip)
        cases: list[tuple[str, Callable[[Backend], None]]] = [
            ("logprobs", expected.logprobs),
            ("sampled", expected.sampled),
            ("penalties", expected.penalties),
            ("retraction", expected.retraction),
            ("builds", expected.builds),
        ]
        undeclared = "" if has.prefix_group_tokens else "the backend does not declare prefix groups"
        groups = partial(expected.prefix_groups, target.backend)
        yield Case(f"engine/{name}/prefix_groups", 3, groups, skip or undeclared)
        for case, method in cases:
            yield Case(f"engine/{name}/{case}", 3, partial(method, target.backend), skip)
        if target.dtype not in has.batch_invariant:
            skip = skip or f"the backend does not declare batch_invariant in {target.dtype}"
        run = partial(expected.batch_invariant, target.backend)
        yield Case(f"engine/{name}/batch_invariant", 3, run, skip)


class _Expected:
    """The reference's replies for one model, computed when the first case needs them."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._replies: list[Reply] = []

    def greedy(self, backend: Backend, settings: tuple[bool, int, bool, int, bool]) -> None:
        """The reference's tokens under one combination of settings."""
        radix, chunk, one_by_one, depth, large = settings
        got = self._run(
            backend,
            GREEDY,
            one_by_one=one_by_one,
            disable_radix_cache=not radix,
            chunked_prefill_size=chunk,
            pipeline_depth=depth,
            page_size=_page_size(backend, large=large),
        )
        self._same_tokens(got)

    def logprobs(self, backend: Backend) -> None:
        """Log-probabilities of output and prompt, in chunks, without cache."""
        got = self._run(
            backend, GREEDY, chunked_prefill_size=16, disable_radix_cache=True, scores=True
        )
        self._same_tokens(got)
        limit = 2 * CLOSE[self._setup.dtype]
        for reply, want in zip(got, self.replies(), strict=True):
            for name in ("input_token_logprobs", "output_token_logprobs"):
                ours, theirs = reply["meta_info"][name], want["meta_info"][name]
                check(len(ours) == len(theirs), f"{len(ours)} {name}, want {len(theirs)}")
                pairs = zip(ours, theirs, strict=True)
                off = [abs(a[0] - b[0]) for a, b in pairs if b[0] is not None and a[1] == b[1]]
                check(max(off) <= limit, f"{name} are off by {max(off):.3g}; allowed {limit:g}")

    def sampled(self, backend: Backend) -> None:
        """Seeded sampling: the same ids alone and together, in chunks, two steps in flight."""
        params = {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "seed": 11, "ignore_eos": True}
        self._consistent(backend, params | {"max_new_tokens": NEW_TOKENS})

    def penalties(self, backend: Backend) -> None:
        """Penalised decoding: the same ids alone and together, two steps in flight."""
        params = GREEDY | {"repetition_penalty": 1.3, "frequency_penalty": 0.5}
        self._consistent(backend, params | {"max_new_tokens": 2 * NEW_TOKENS})

    def prefix_groups(self, backend: Backend) -> None:
        """The reference's tokens, with rows grouped by every prefix of a page, and one step in
        flight or two."""
        eager = replace(backend.capabilities, prefix_group_tokens=1)
        for depth in (1, 2):
            got = self._run(
                replace(backend, capabilities=eager),
                GREEDY,
                pipeline_depth=depth,
                page_size=_page_size(backend, large=False),
            )
            self._same_tokens(got)

    def retraction(self, backend: Backend) -> None:
        """Too few pages for all requests at once: some are taken back, and end as they would."""
        params = GREEDY | {"max_new_tokens": 60}
        size = _page_size(backend, large=False)
        settings: dict[str, Any] = {"page_size": size, "disable_radix_cache": True}
        longest = len(prompts()[-1]) + 60
        tokens = 9 * longest // 4 // size * size  # room for three prompts, not for their output
        tight: dict[str, Any] = {"max_total_tokens": tokens, "context_length": longest}
        want = self._run(backend, params, one_by_one=True, **settings)
        got = self._run(backend, params, **settings, **tight)
        if self._setup.dtype == "float32":
            _same(got, want, "with few pages", "with many")
            return
        # In 16 bits two best tokens may be as good as equal, and what is computed again differs.
        for index, (a, b) in enumerate(zip(got, want, strict=True)):
            ours, theirs = a["output_ids"], b["output_ids"]
            check(
                len(ours) == len(theirs) and ours[:NEW_TOKENS] == theirs[:NEW_TOKENS],
                f"prompt {index}: {ours} with few pages, {theirs} with many",
            )

    def batch_invariant(self, backend: Backend) -> None:
        """Every bit of every log-probability is the same, whatever a request runs beside."""
        params = {"temperature": 0.9, "top_p": 0.95, "seed": 5, "frequency_penalty": 0.4}
        params |= {"max_new_tokens": 2 * NEW_TOKENS, "ignore_eos": True}
        whole: dict[str, Any] = {"chunked_prefill_size": WHOLE, "batch_invariant": True}
        want = self._run(
            backend, params, one_by_one=True, scores=True, disable_radix_cache=True, **whole
        )
        surroundings: dict[str, dict[str, Any]] = {
            "together": whole,
            "in chunks": {"chunked_prefill_size": 16, "disable_radix_cache": True},
            "with two steps in flight": {"chunked_prefill_size": 64, "pipeline_depth": 2},
            "after a cached prefix": {"one_by_one": True, "prompt_scores": False},
        }
        for name, settings in surroundings.items():
            settings = {"scores": True, "batch_invariant": True} | settings
            got = self._run(backend, params, **settings)
            for index, (a, b) in enumerate(zip(got, want, strict=True)):
                fields = ["output_token_logprobs", "input_token_logprobs"]
                for field in fields if settings.get("prompt_scores", True) else fields[:1]:
                    same = a["meta_info"][field] == b["meta_info"][field]
                    check(same, f"prompt {index}: {field} differ {name} and alone")

    def builds(self, backend: Backend) -> None:
        """Requests of every kind, in steps of many sizes, build nothing once the engine is
        ready."""
        config = self._config(backend, chunked_prefill_size=32)
        with Engine(config, backend=backend, source=self._setup.source) as engine:
            built = run_sweep(engine, (1, 7, 16, 45), (1, 3, 6), new_tokens=4)
        check(built == 0, f"{built} kernels or graphs were built after the engine was ready")

    def replies(self) -> list[Reply]:
        """The reference's, scored."""
        if not self._replies:
            reference = Backend(
                name="reference",
                device="cpu",
                capabilities=Capabilities(plan_needs_host_lens=True),
            )
            setup = _Setup(self._setup.source, "float32")
            settings: dict[str, Any] = {"disable_radix_cache": True, "chunked_prefill_size": WHOLE}
            self._replies = _Expected(setup)._run(
                reference, GREEDY, one_by_one=True, scores=True, **settings
            )
        return self._replies

    def _consistent(self, backend: Backend, params: dict[str, Any]) -> None:
        alone = self._run(backend, params, one_by_one=True)
        together = self._run(backend, params, pipeline_depth=2, chunked_prefill_size=16)
        if self._setup.dtype == "float32":
            _same(together, alone, "together", "alone")

    def _same_tokens(self, got: Sequence[Reply]) -> None:
        compared = 0
        for index, (reply, want) in enumerate(zip(got, self.replies(), strict=True)):
            ours, theirs = reply["output_ids"], want["output_ids"]
            check(len(ours) == len(theirs), f"prompt {index}: {len(ours)} tokens of {len(theirs)}")
            for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
                if a == b:
                    compared += 1
                    continue
                best, second = want["meta_info"]["output_top_logprobs"][place][:2]
                gap = best[1] - second[1]
                check(
                    gap < CLOSE[self._setup.dtype],
                    f"prompt {index}, token {place}: {a}, but the reference has {b}, which leads "
                    f"by {gap:.3g}; got {ours}, want {theirs}",
                )
                break
        check(compared >= NUM_PROMPTS * NEW_TOKENS // 2, f"only {compared} tokens were comparable")

    def _config(self, backend: Backend, **options: Any) -> EngineConfig:
        settings: dict[str, Any] = {
            "dtype": self._setup.dtype,
            "page_size": _page_size(backend, large=False),
            "max_total_tokens": 1024,
            "max_running_requests": 8,
            "check_integrity": True,
            "seed": 7,
        }
        return EngineConfig(**(settings | options))

    def _run(
        self,
        backend: Backend,
        params: dict[str, Any],
        *,
        one_by_one: bool = False,
        scores: bool = False,
        prompt_scores: bool = True,
        **options: Any,
    ) -> list[Reply]:
        """One engine, all prompts, one after another or together."""
        wanted: dict[str, Any] = {}
        if scores:
            start = 0 if prompt_scores else -1
            wanted = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 2}
        config = self._config(backend, **options)
        with Engine(config, backend=backend, source=self._setup.source) as engine:
            if not one_by_one:
                return list(engine.generate(input_ids=prompts(), sampling_params=params, **wanted))
            return [
                engine.generate(input_ids=ids, sampling_params=params, **wanted)
                for ids in prompts()
            ]


def prompts() -> list[list[int]]:
    """Prompts of several lengths that begin alike."""
    random = np.random.default_rng(3)
    shared = random.integers(0, VOCAB, SHARED_TOKENS).tolist()
    return [shared + random.integers(0, VOCAB, 3 + 7 * i).tolist() for i in range(NUM_PROMPTS)]


def llama(head_dim: int) -> Source:
    """A Llama of two layers, for dummy weights."""
    return _source("LlamaForCausalLM", "llama", head_dim, rope_theta=10000.0)


def gemma3(head_dim: int) -> Source:
    """A Gemma 3 of three layers: windows shorter than the prompts, norms per head, wide norms."""
    return _source(
        "Gemma3ForCausalLM",
        "gemma3_text",
        head_dim,
        num_hidden_layers=3,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        sliding_window=9,
        query_pre_attn_scalar=head_dim,
        hidden_activation="gelu_pytorch_tanh",
    )


def _source(architecture: str, model_type: str, head_dim: int, **more: Any) -> Source:
    values: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    config = parse_hf_config(values | more)
    return Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")


def _same(got: Sequence[Reply], want: Sequence[Reply], now: str, then: str) -> None:
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        check(
            a["output_ids"] == b["output_ids"],
            f"prompt {index}: {a['output_ids']} {now}, {b['output_ids']} {then}",
        )


def _page_size(backend: Backend, *, large: bool) -> int:
    sizes = page_sizes(backend.capabilities)
    return max(sizes) if large else min(sizes)


def _label(target: Target, settings: tuple[bool, int, bool, int, bool]) -> str:
    radix, chunk, one_by_one, depth, large = settings
    parts = (
        "cache" if radix else "no_cache",
        "whole" if chunk == WHOLE else f"chunk_{chunk}",
        "one_by_one" if one_by_one else "together",
        f"depth_{depth}",
        f"page_{_page_size(target.backend, large=large)}",
    )
    return "-".join(parts)
