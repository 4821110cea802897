"""Launches at the sizes of an 8B model in bfloat16, on tensors that nobody reads."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tests.unit.step_inputs import step
from torch import Tensor

from tupelo.backend import Runtime, TorchKVPool, TorchRuntime
from tupelo.batch import Bucket, PrefixGroups
from tupelo.ops import LinearWeight
from tupelo.specs import AttentionSpec, KVSpec
from tupelo.triton import activation, linear, moe, norm, rope, rows, sampling, vocab
from tupelo.triton.attention import TritonAttention
from tupelo.triton.gemv import add_norm_gemv
from tupelo.triton.linear_config import configs
from tupelo.triton.paged import store_kv
from tupelo.triton.tuning import AttentionTuning

BF16 = torch.bfloat16

SIZES = AttentionTuning()
"""Of the attention kernels; whoever compiles for a backend puts its own here."""

HIDDEN, INNER, HEADS, KV_HEADS = 4096, 14336, 32, 8


def empty(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    """Memory that is never written, so never taken."""
    return torch.empty(shape, dtype=dtype)


def weight(out: int, features: int, *, bias: bool = False) -> LinearWeight:
    """An uninitialised weight."""
    return LinearWeight(
        out, features, {"weight": empty(out, features)}, empty(out) if bias else None
    )


def norms() -> None:
    """Hidden states, with and without the residual, and a bias where there can be one."""
    x, w = empty(64, HIDDEN), empty(HIDDEN)
    norm.rms_norm(x, w, 1e-5)
    norm.add_rms_norm(x, x, w, 1e-5)
    norm.layer_norm(x, w, w, 1e-5)
    norm.add_layer_norm(x, x, w, w, 1e-5)
    norm.add_layer_norm(x, x, w, None, 1e-5)


def activations() -> None:
    """All of them, gated and plain."""
    x = empty(64, 2 * INNER)
    for run in (*activation.ACTIVATIONS.values(), *activation.MLP_ACTIVATIONS.values()):
        run(x)


def ropes() -> None:
    """The split of QKV, plain and into pages with per-head norms."""
    qkv = empty(64, (HEADS + 2 * KV_HEADS) * 128)
    table, positions = empty(4096, 128, dtype=torch.float32), torch.zeros(64, dtype=torch.int64)
    rope.norm_rope_qkv(qkv, positions, table, None, None, 1e-5, HEADS, KV_HEADS, 128)
    cache, w = empty(64, 16, KV_HEADS, 128), empty(128)
    rope.norm_rope_qkv_store(
        qkv, positions, table, w, w, 1e-5, HEADS, KV_HEADS, 128, cache, cache, positions
    )
    store_kv(empty(64, KV_HEADS, 128), empty(64, KV_HEADS, 128), cache, cache, positions)


def gemvs() -> None:
    """One row: plain, with a bias, gated, and with the norm inside."""
    x = empty(1, HIDDEN)
    linear.linear(empty(1, INNER), weight(HIDDEN, INNER))
    linear.gated_mlp(x, "silu", weight(2 * INNER, HIDDEN), weight(HIDDEN, INNER))
    linear.mlp(x, "relu", weight(INNER, HIDDEN, bias=True), weight(HIDDEN, INNER, bias=True))
    qkv = weight(6144, HIDDEN)
    add_norm_gemv(x, x, empty(HIDDEN), 1e-5, qkv, linear.default_config(x, qkv))


def small_linears(rows: int) -> None:
    """Few rows: plain, with a bias, split over the inputs, gated."""
    x = empty(rows, HIDDEN)
    linear.gated_mlp(x, "silu", weight(2 * INNER, HIDDEN), weight(HIDDEN, INNER))
    linear.mlp(x, "relu", weight(INNER, HIDDEN, bias=True), weight(HIDDEN, INNER, bias=True))
    out = weight(HIDDEN, HIDDEN)
    split = next(c for c in configs((HIDDEN, HIDDEN), rows) if c.splits > 1)
    linear.run_linear(x, out, split)


def row_ops() -> None:
    """Embedding, merge and quantisation."""
    ids = torch.zeros(64, dtype=torch.int64)
    rows.embedding(ids, empty(32000, HIDDEN), 0.5)
    out, lse = empty(64, HEADS, 128), empty(64, HEADS, dtype=torch.float32)
    rows.merge_attention(out, lse, out, lse)
    rows.quantize(empty(64, INNER))


def vocabularies() -> None:
    """Masks, argmax, log-probabilities and draws over 128k ids."""
    logits, wide = empty(8, 128256), empty(8, 128256, dtype=torch.float32)
    ids, floats = torch.zeros(8, dtype=torch.int64), torch.zeros(8)
    vocab.apply_token_bitmask(logits, torch.zeros(8, 4008, dtype=torch.int32))
    vocab.argmax(logits)
    vocab.gather_logprobs(logits, ids)
    sampling.sample_top_k_top_p(wide, ids, floats, floats, floats)


def experts(tokens: int) -> None:
    """8 experts of which 2 are chosen."""
    moe.moe_experts(
        empty(tokens, HIDDEN),
        empty(tokens, 2, dtype=torch.float32),
        torch.zeros(tokens, 2, dtype=torch.int64),
        "silu",
        empty(8, 2 * 1024, HIDDEN),
        empty(8, HIDDEN, 1024),
    )


def attention(
    dtype: torch.dtype = BF16,
    head_dim: int = 128,
    heads: int = HEADS,
    window: int | None = None,
    soft_cap: float | None = None,
) -> None:
    """A decode step with and without splits, one in groups, and a mixed one."""
    name = str(dtype).removeprefix("torch.")
    kind = AttentionSpec(
        group=0,
        num_heads=heads,
        num_kv_heads=KV_HEADS,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        window=window,
        soft_cap=soft_cap,
    )
    stored = KVSpec(
        group=0, layers=(0,), num_kv_heads=KV_HEADS, head_dim=head_dim, dtype=name, window=window
    )
    runtime: Runtime = TorchRuntime("cpu")
    pool = TorchKVPool([stored], [64], 16, runtime)
    steps = ((1, 1, True), (1, 1, False), (32, 1, False), (64, 1, False), (4, 200, False))
    for count, new, fused in steps:
        tuning = replace(SIZES, fused_merge=fused)
        backend = TritonAttention([kind], 16, 256, runtime, tuning=tuning)
        inputs = step([new] * count, Bucket(count * new, count))
        if count == 64:
            starts, shared = np.array([0, 40, 60], np.int32), np.array([256, 128], np.int32)
            inputs.host.prefix_groups = PrefixGroups(starts, shared)
        plan = backend.plan(inputs)
        q = empty(count * new, heads, head_dim, dtype=dtype)
        k = empty(count * new, KV_HEADS, head_dim, dtype=dtype)
        backend.forward(q, k, k, 0, 0, pool, plan)


def decodes(*dtypes: torch.dtype, dims: Sequence[int] = (64, 128, 256)) -> None:
    """Decode alone, by every number of heads to a K/V head: dtypes, sizes of a head and of a page,
    splits, groups, ways to merge and rows among others, in combinations that differ in many."""
    for turn in range(4 * len(dtypes)):
        page_size, splits = (4, 16, 1)[(turn + turn // 3) % 3], (32, 1, 2)[(turn - turn // 3) % 3]
        dtype, dim = dtypes[turn // 4], dims[turn % len(dims)]
        one_decode(dtype, 2 * (turn + 1), dim, page_size, splits, turn)
    one_decode(dtypes[0], 4, 128, 16, 32, 0)


def one_decode(
    dtype: torch.dtype, heads: int, dim: int, page_size: int, splits: int, turn: int
) -> None:
    """One launch over two K/V heads, with page tables of an odd width; the bits of ``turn`` choose
    groups, rows among others and the merge."""
    spec = AttentionSpec(group=0, num_heads=heads, num_kv_heads=2, head_dim=dim, scale=0.1)
    name = str(dtype).removeprefix("torch.")
    kept = KVSpec(group=0, layers=(0,), num_kv_heads=2, head_dim=dim, dtype=name)
    runtime = TorchRuntime("cpu")
    pool = TorchKVPool([kept], [64], page_size, runtime)
    inputs = step([1] * 4, Bucket(4, 4), table_width=17)
    if turn & 1:
        groups = PrefixGroups(np.array([0, 4], np.int32), np.array([256], np.int32))
        inputs.host.prefix_groups = groups
    tuning = replace(SIZES, fused_merge=bool(turn & 4))
    backend = TritonAttention([spec], page_size, 17, runtime, tuning=tuning)
    plan = replace(backend.plan_decode(inputs), one_token_rows=not turn & 2)
    q = empty(4, heads, dim, dtype=dtype)
    backend.attend_decode(q, torch.empty_like(q), 0, 0, pool, plan, splits)


LAUNCHES: dict[str, Callable[[], None]] = {
    "norms": norms,
    "rows": row_ops,
    "vocab": vocabularies,
    "experts_2": partial(experts, 2),
    "experts_512": partial(experts, 512),
    "activations": activations,
    "ropes": ropes,
    "gemvs": gemvs,
    "linear_16": partial(small_linears, 16),
    "linear_64": partial(small_linears, 64),
    "attention": attention,
    "attention_window": partial(attention, window=512, soft_cap=30.0),
    "attention_256": partial(attention, head_dim=256, heads=16),
    "decodes": partial(decodes, BF16, torch.float16),
    "decodes_float32": partial(decodes, torch.float32),
    "attention_float32": partial(attention, torch.float32),
}
