"""torch-npu's operators in plain torch on the CPU, by their documentation, for machines without it.

They are registered under the names and with the schemas of torch-npu 2.13, so torch refuses a call
that torch-npu would refuse; where torch-npu is loaded, its own schemas stay and only the CPU gets
these. Each asserts what the documentation asks for and its operator may not check.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import library as torch_library

SCHEMAS = (
    "npu_rms_norm(Tensor input, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
    "npu_add_rms_norm(Tensor x1, Tensor x2, Tensor gamma, float epsilon=1e-06) -> (Tensor, "
    "Tensor, Tensor)",
    "npu_rotary_mul(Tensor input, Tensor r1, Tensor r2, str rotary_mode='half', Tensor? "
    "rotate=None) -> Tensor",
    "npu_swiglu(Tensor input, int dim=-1) -> Tensor",
    "npu_geglu(Tensor input, int dim=-1, int approximate=1, bool activate_left=False) -> "
    "(Tensor, Tensor)",
    "npu_moe_gating_top_k_softmax(Tensor x, Tensor? finished=None, int k=1) -> (Tensor, Tensor, "
    "Tensor)",
    "npu_moe_gating_top_k(Tensor x, int k, *, Tensor? bias=None, Tensor? input_ids=None, Tensor?"
    " tid2eid=None, int k_group=1, int group_count=1, int group_select_mode=0, int renorm=0, int"
    " norm_type=0, bool out_flag=False, float routed_scaling_factor=1., float eps=1e-20) -> "
    "(Tensor, Tensor, Tensor)",
    "npu_moe_init_routing_v2(Tensor x, Tensor expert_idx, *, Tensor? scale=None, Tensor? "
    "offset=None, int active_num=-1, int expert_capacity=-1, int expert_num=-1, int "
    "drop_pad_mode=0, int expert_tokens_num_type=0, bool expert_tokens_num_flag=False, int "
    "quant_mode=-1, int[2] active_expert_range=[], int row_idx_type=0, int? x_dtype=None) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? "
    "scale=None, Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? "
    "antiquant_offset=None, Tensor[]? per_token_scale=None, Tensor? group_list=None, Tensor[]? "
    "activation_input=None, Tensor[]? activation_quant_scale=None, Tensor[]? "
    "activation_quant_offset=None, int? split_item=0, int? group_type=None, int? "
    "group_list_type=0, int? act_type=0, int[]? tuning_config=None, int? output_dtype=None, int?"
    " x_dtype=None, int? weight_dtype=None, int? scale_dtype=None, int? "
    "per_token_scale_dtype=None) -> Tensor[]",
    "npu_moe_finalize_routing(Tensor expanded_permuted_rows, Tensor? skip1, Tensor? skip2, "
    "Tensor? bias, Tensor? scales, Tensor expanded_src_to_dst_row, Tensor? "
    "export_for_source_row, int? drop_pad_mode=0, int? k=1) -> Tensor",
    "npu_fused_infer_attention_score(Tensor query, Tensor key, Tensor value, *, Tensor? "
    "pse_shift=None, Tensor? atten_mask=None, SymInt[]? actual_seq_lengths=None, SymInt[]? "
    "actual_seq_lengths_kv=None, Tensor? dequant_scale1=None, Tensor? quant_scale1=None, Tensor?"
    " dequant_scale2=None, Tensor? quant_scale2=None, Tensor? quant_offset2=None, Tensor? "
    "antiquant_scale=None, Tensor? antiquant_offset=None, Tensor? key_antiquant_scale=None, "
    "Tensor? key_antiquant_offset=None, Tensor? value_antiquant_scale=None, Tensor? "
    "value_antiquant_offset=None, Tensor? block_table=None, Tensor? query_padding_size=None, "
    "Tensor? kv_padding_size=None, Tensor? key_shared_prefix=None, Tensor? "
    "value_shared_prefix=None, SymInt[]? actual_shared_prefix_len=None, Tensor? query_rope=None,"
    " Tensor? key_rope=None, Tensor? key_rope_antiquant_scale=None, int num_heads=1, float "
    'scale=1., int pre_tokens=2147483647, int next_tokens=2147483647, str input_layout="BSH", '
    "int num_key_value_heads=0, int sparse_mode=0, int inner_precise=0, int block_size=0, int "
    "antiquant_mode=0, int key_antiquant_mode=0, int value_antiquant_mode=0, bool "
    "softmax_lse_flag=False) -> (Tensor, Tensor)",
    "npu_scatter_pa_kv_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) "
    "value_cache, Tensor slot_mapping, *, Tensor? compress_lens=None, Tensor? "
    "compress_seq_offsets=None, Tensor? seq_lens=None, str? cache_mode='PA_NZ') -> ()",
)
ATB_SCHEMA = (
    "_npu_reshape_and_cache(Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) "
    "value_cache, Tensor slot_indices) -> ()"
)

CALLS: list[str] = []
"""Names of the operators that were called."""

WRONG: dict[str, Callable[..., Any]] = {}
"""What a test puts in an operator's place."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def rms_norm(x: Tensor, gamma: Tensor, epsilon: float = 1e-6) -> tuple[Tensor, Tensor]:
    assert x.dtype in FLOATS
    assert gamma.dtype == x.dtype
    assert 2 <= x.dim() <= 8
    assert x.is_contiguous()
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(x.dtype) * gamma, scale


def add_rms_norm(
    x1: Tensor, x2: Tensor, gamma: Tensor, epsilon: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    assert x1.shape == x2.shape
    assert x1.dtype == x2.dtype
    total = x1 + x2
    out, scale = rms_norm(total, gamma, epsilon)
    return out, scale, total


def rotary_mul(
    x: Tensor, r1: Tensor, r2: Tensor, rotary_mode: str = "half", rotate: Tensor | None = None
) -> Tensor:
    batch, tokens, heads, dim = x.shape
    assert rotary_mode == "half"
    assert rotate is None
    assert dim % 2 == 0
    assert dim < 896
    assert batch < 1000
    assert heads < 1000
    assert r1.shape == r2.shape == (1, tokens, 1, dim)
    assert r1.dtype == r2.dtype == x.dtype
    assert x.is_contiguous()
    x1, x2 = torch.chunk(x, 2, -1)
    return r1 * x + r2 * torch.cat((-x2, x1), dim=-1)


def swiglu(x: Tensor, dim: int = -1) -> Tensor:
    gate, up = x.chunk(2, dim=dim)
    return F.silu(gate) * up


def geglu(
    x: Tensor, dim: int = -1, approximate: int = 1, activate_left: bool = False
) -> tuple[Tensor, Tensor]:
    left, right = x.chunk(2, dim=dim)
    gate, up = (left, right) if activate_left else (right, left)
    gelu = F.gelu(gate, approximate="tanh" if approximate else "none")
    return gelu * up, gelu


def gating_softmax(
    x: Tensor, finished: Tensor | None = None, k: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    assert finished is None
    assert 0 < k <= min(1024, x.shape[-1])
    best = torch.softmax(x.float(), -1).topk(k, dim=-1)
    rows = torch.arange(best.indices.numel()).view(k, -1).t()
    return best.values.to(x.dtype), best.indices.int(), rows.int().contiguous()


def gating(
    x: Tensor,
    k: int,
    *,
    bias: Tensor | None = None,
    k_group: int = 1,
    group_count: int = 1,
    group_select_mode: int = 0,
    renorm: int = 0,
    norm_type: int = 0,
    routed_scaling_factor: float = 1.0,
    eps: float = 1e-20,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    num_experts = x.shape[-1]
    size = num_experts // group_count
    assert renorm == 0
    assert size * group_count == num_experts
    assert size > 2
    assert -(-size // 32) * 32 * group_count <= 2048
    assert 1 <= k <= size * k_group
    assert bias is None or bias.dtype == x.dtype
    norm = torch.sigmoid(x.float()) if norm_type else torch.softmax(x.float(), -1)
    choice = norm if bias is None else norm + bias
    groups = choice.view(len(x), group_count, size)
    best = groups.topk(2 if group_select_mode else 1, dim=-1).values.sum(-1)
    chosen = best.topk(k_group, dim=-1).indices
    closed = torch.ones_like(best, dtype=torch.bool).scatter(-1, chosen, False)
    open_only = groups.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(1)
    ids = open_only.topk(k, dim=-1).indices
    y = norm.gather(-1, ids)
    y = y / (y.sum(-1, keepdim=True) + eps) if norm_type else y
    return (y * routed_scaling_factor).to(x.dtype), ids.int(), norm


def init_routing(
    x: Tensor,
    expert_idx: Tensor,
    *,
    active_num: int = -1,
    expert_num: int = -1,
    drop_pad_mode: int = 0,
    expert_tokens_num_type: int = 0,
    expert_tokens_num_flag: bool = False,
    quant_mode: int = -1,
    active_expert_range: Sequence[int] = (),
    row_idx_type: int = 0,
    **_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert (drop_pad_mode, expert_tokens_num_type, quant_mode, row_idx_type) == (0, 1, -1, 0)
    assert expert_tokens_num_flag
    assert list(active_expert_range) == [0, expert_num]
    assert expert_idx.dtype == torch.int32
    assert active_num == expert_idx.numel()
    flat = expert_idx.flatten()
    order = torch.argsort(flat, stable=True)
    places = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
    counts = torch.bincount(flat, minlength=expert_num)
    rows = x[order // expert_idx.shape[1]]
    return rows, places.int(), counts, torch.empty(len(flat))


def grouped_matmul(
    x: Sequence[Tensor],
    weight: Sequence[Tensor],
    *,
    group_list: Tensor | None = None,
    split_item: int = 0,
    group_type: int | None = None,
    group_list_type: int = 0,
    **more: Any,
) -> list[Tensor]:
    ((rows,), (matrices,)) = (x, weight)
    assert (split_item, group_type, group_list_type) == (2, 0, 1)
    assert not any(value for value in more.values())
    assert group_list is not None
    assert group_list.dtype == torch.int64
    assert len(group_list) == len(matrices) > 1
    assert int(group_list.sum()) == len(rows)
    assert matrices.dim() == 3
    assert rows.dtype == matrices.dtype
    assert matrices.is_contiguous() or matrices.transpose(1, 2).is_contiguous()
    assert rows.is_contiguous()
    parts = torch.split(rows, group_list.tolist())
    return [torch.cat([part @ m for part, m in zip(parts, matrices, strict=True)])]


def finalize_routing(
    expanded_permuted_rows: Tensor,
    skip1: Tensor | None,
    skip2: Tensor | None,
    bias: Tensor | None,
    scales: Tensor | None,
    expanded_src_to_dst_row: Tensor,
    export_for_source_row: Tensor | None,
    drop_pad_mode: int = 0,
    k: int = 1,
) -> Tensor:
    assert skip1 is None
    assert skip2 is None
    assert drop_pad_mode == 0
    assert scales is not None
    assert export_for_source_row is not None
    assert scales.dtype == expanded_permuted_rows.dtype
    assert expanded_src_to_dst_row.dtype == export_for_source_row.dtype == torch.int32
    num_rows, top_k = scales.shape
    assert top_k == k
    out = torch.zeros(num_rows, expanded_permuted_rows.shape[1])
    for i in range(num_rows):
        for j in range(k):
            row = expanded_permuted_rows[expanded_src_to_dst_row[i + j * num_rows]].float()
            row = row if bias is None else row + bias[export_for_source_row[i, j]].float()
            out[i] += scales[i, j].float() * row
    return out.to(expanded_permuted_rows.dtype)


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    atten_mask: Tensor | None = None,
    actual_seq_lengths: Sequence[int] | None = None,
    actual_seq_lengths_kv: Sequence[int] | None = None,
    block_table: Tensor | None = None,
    num_heads: int = 1,
    scale: float = 1.0,
    pre_tokens: int = 2147483647,
    next_tokens: int = 2147483647,
    input_layout: str = "BSH",
    num_key_value_heads: int = 0,
    sparse_mode: int = 0,
    block_size: int = 0,
    **more: Any,
) -> tuple[Tensor, Tensor]:
    assert not any(v for v in more.values()), "arguments that this backend does not give"
    assert block_table is not None
    assert actual_seq_lengths_kv is not None
    assert query.is_contiguous()
    assert query.dtype == key.dtype == value.dtype
    assert query.dtype in (torch.float16, torch.bfloat16)
    rows = _rows(query, input_layout, num_heads, actual_seq_lengths)
    single = input_layout == "BSH" and query.shape[1] == 1
    assert len(rows) == len(block_table) == len(actual_seq_lengths_kv)
    assert block_table.dtype == torch.int32
    _check_pages(key, block_size, 16 if single else 128)
    assert key.shape == value.shape
    _check_mask(atten_mask, sparse_mode, single, len(rows), block_table.shape[1] * block_size)
    shared = SimpleNamespace(scale=scale, kv_heads=num_key_value_heads, block_size=block_size)
    parts = []
    for i, (q, length) in enumerate(zip(rows, actual_seq_lengths_kv, strict=True)):
        assert 1 <= length <= block_table.shape[1] * block_size
        table = block_table[i]
        assert int(table.min()) >= 0
        assert int(table.max()) < len(key)
        seen = torch.ones(len(q), length, dtype=torch.bool)
        if not single:
            assert sparse_mode in (3, 4)
            assert len(q) <= length
            back = pre_tokens if sparse_mode == 4 else 2147483647
            ahead = next_tokens if sparse_mode == 4 else 0
            distance = torch.arange(len(q))[:, None] + (length - len(q)) - torch.arange(length)
            seen = (distance <= back) & (distance >= -ahead)
        elif atten_mask is not None:
            seen = ~atten_mask[i, None, :length]
        parts.append(_attend(q, key, value, table, seen, shared))
    return torch.cat(parts).to(query.dtype).view(query.shape), torch.zeros(1)


def _rows(query: Tensor, layout: str, num_heads: int, ends: Sequence[int] | None) -> list[Tensor]:
    """Each row's tokens, (tokens, num_heads, head_dim)."""
    if layout == "TND":
        assert query.shape[1] == num_heads
        assert ends is not None
        assert ends[-1] == len(query)
        return [query[begin:end] for begin, end in pairwise([0, *ends])]
    assert layout == "BSH"
    if query.shape[1] > 1:
        assert ends is None or list(ends) == [query.shape[1]] * len(query)
    return [row.view(len(row), num_heads, -1) for row in query]


def _check_pages(key: Tensor, block_size: int, multiple: int) -> None:
    assert key.dim() == 3
    assert key.is_contiguous()
    assert key.shape[1] == block_size <= 512
    assert block_size % multiple == 0
    assert key.shape[2] <= 65535


def _check_mask(
    mask: Tensor | None, sparse_mode: int, single: bool, num_rows: int, most_keys: int
) -> None:
    if single:
        assert sparse_mode == 0
        assert mask is None or mask.shape[0] == num_rows
        assert mask is None or mask.shape[1] >= most_keys
        return
    assert mask is not None
    assert mask.shape == (2048, 2048)
    assert mask.dtype == torch.bool
    assert bool(mask[0, 1])
    assert not mask[1, 1]


def _attend(
    q: Tensor, key: Tensor, value: Tensor, table: Tensor, seen: Tensor, shared: Any
) -> Tensor:
    """(tokens, num_heads, head_dim) float32 of one row."""
    at = torch.arange(seen.shape[1])
    pages = table[at // shared.block_size].long()
    k, v = (pool[pages, at % shared.block_size].float() for pool in (key, value))
    heads, dim = q.shape[1], q.shape[2]
    group = heads // shared.kv_heads
    wide = (t.view(len(at), shared.kv_heads, dim).repeat_interleave(group, 1) for t in (k, v))
    keys, values = wide
    scores = torch.einsum("thd,lhd->htl", q.float(), keys) * shared.scale
    weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), -1)
    return torch.einsum("htl,lhd->thd", weights, values)


def scatter_kv(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    *,
    cache_mode: str | None = "PA_NZ",
    **_: Any,
) -> None:
    assert cache_mode == "Norm"
    _store(key, value, key_cache, value_cache, slot_mapping)


def reshape_and_cache(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_indices: Tensor
) -> None:
    _store(key, value, key_cache, value_cache, slot_indices)


def _store(k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, slots: Tensor) -> None:
    assert slots.dtype == torch.int32
    assert k.dtype == v.dtype == k_pool.dtype == v_pool.dtype
    for new, pool in ((k, k_pool), (v, v_pool)):
        assert new.is_contiguous()
        assert pool.dim() == 4
        for row, slot in zip(new, slots.tolist(), strict=True):
            assert 0 <= slot < pool.shape[0] * pool.shape[1]
            pool[slot // pool.shape[1], slot % pool.shape[1]] = row


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "npu_rms_norm": rms_norm,
    "npu_add_rms_norm": add_rms_norm,
    "npu_rotary_mul": rotary_mul,
    "npu_swiglu": swiglu,
    "npu_geglu": geglu,
    "npu_moe_gating_top_k_softmax": gating_softmax,
    "npu_moe_gating_top_k": gating,
    "npu_moe_init_routing_v2": init_routing,
    "npu_grouped_matmul": grouped_matmul,
    "npu_moe_finalize_routing": finalize_routing,
    "npu_fused_infer_attention_score": fused_attention,
    "npu_scatter_pa_kv_cache": scatter_kv,
    "_npu_reshape_and_cache": reshape_and_cache,
}


def _called(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        CALLS.append(name)
        return WRONG.get(name, FUNCTIONS[name])(*args, **kwargs)

    return call


_LIBRARIES: list[torch_library.Library] = []


def install() -> None:
    """Make the operators callable on the CPU; again is no more than once."""
    if _LIBRARIES:
        return
    npu, atb = (torch_library.Library(space, "FRAGMENT") for space in ("npu", "atb"))
    _LIBRARIES.extend((npu, atb))
    for library, schema in [*((npu, s) for s in SCHEMAS), (atb, ATB_SCHEMA)]:
        name = schema.partition("(")[0]
        if not hasattr(getattr(torch.ops, library.ns), name):
            library.define(schema)
        library.impl(name, _called(name), "CPU")
