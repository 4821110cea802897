"""Every call that this backend makes of torch-npu's operators, in one place: their names, the
arguments that are given, and what their documentation asks of these.

The operators are looked up when they are called, so this module needs no torch-npu. Source: the
docstrings that torch-npu brings for its operators; CANN's documentation of the aclnn functions
behind them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

MASK_SIZE = 2048
"""Rows and columns of the one mask that attention's sparse modes 2 to 4 take."""

CAUSAL, BAND, PLAIN = 3, 4, 0
"""Sparse modes: causal from the last key on; a band about that diagonal; as the mask says."""

NAMES = (
    *("npu_rms_norm", "npu_add_rms_norm", "npu_rotary_mul", "npu_swiglu", "npu_geglu"),
    *("npu_moe_gating_top_k_softmax", "npu_moe_gating_top_k", "npu_moe_init_routing_v2"),
    *("npu_grouped_matmul", "npu_moe_finalize_routing"),
    *("npu_fused_infer_attention_score", "npu_scatter_pa_kv_cache", "_npu_reshape_and_cache"),
)
"""Operators of torch-npu that are called."""


def lacking(*names: str) -> str:
    """The first of these operators that the loaded torch-npu does not have; "" if it has all."""
    return next((name for name in names if not _has(name)), "")


def _has(name: str) -> bool:
    space = torch.ops.atb if name == "_npu_reshape_and_cache" else torch.ops.npu
    return hasattr(space, name)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Over the last axis; ``weight`` has the dtype of ``x``."""
    out: Tensor = torch.ops.npu.npu_rms_norm(x, weight, eps)[0]
    return out


def add_rms_norm(x: Tensor, other: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of the sum, and the sum."""
    out, _, total = torch.ops.npu.npu_add_rms_norm(x, other, weight, eps)
    return out, total


def rotary_mul(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x cos + (-x2, x1) sin`` with the halves x1, x2 of the last axis.

    Args:
        x: (1, num_tokens, num_heads, head_dim), fewer than 1,000 heads.
        cos, sin: (1, num_tokens, 1, head_dim), dtype of ``x``.
    """
    out: Tensor = torch.ops.npu.npu_rotary_mul(x, cos, sin, "half")
    return out


def swiglu(x: Tensor) -> Tensor:
    """``silu`` of the first half of the last axis times the second."""
    out: Tensor = torch.ops.npu.npu_swiglu(x, -1)
    return out


def geglu(x: Tensor) -> Tensor:
    """``gelu``, by tanh, of the first half of the last axis times the second."""
    out: Tensor = torch.ops.npu.npu_geglu(x, -1, 1, True)[0]
    return out


def gate_softmax(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The ``top_k`` largest of softmax(logits): values of the dtype of ``logits``, int32 ids."""
    values, ids, _ = torch.ops.npu.npu_moe_gating_top_k_softmax(logits, None, top_k)
    return values, ids


def gate(
    logits: Tensor,
    top_k: int,
    bias: Tensor | None,
    groups: int,
    open_groups: int,
    by_two_best: bool,
    sigmoid: bool,
) -> Tensor:
    """(num_tokens, top_k) int32 ids of the best experts within the best groups.

    Args:
        bias: (num_experts,), dtype of ``logits``.
        by_two_best: a group is as good as the sum of its two best, not as its best.
    """
    _, ids, _ = torch.ops.npu.npu_moe_gating_top_k(
        logits,
        top_k,
        bias=bias,
        k_group=open_groups,
        group_count=groups,
        group_select_mode=int(by_two_best),
        renorm=0,
        norm_type=int(sigmoid),
        out_flag=False,
    )
    out: Tensor = ids
    return out


def init_routing(x: Tensor, experts: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens copied to their experts' places, experts in order.

    Args:
        experts: (num_tokens, top_k) int32.

    Returns:
        (num_tokens * top_k, hidden_size); int32 (num_tokens * top_k,), the place of choice ``t *
        top_k + k``; int64 (num_experts,), the rows of each expert.
    """
    rows, places, counts, _ = torch.ops.npu.npu_moe_init_routing_v2(
        x,
        experts,
        active_num=experts.numel(),
        expert_num=num_experts,
        drop_pad_mode=0,
        expert_tokens_num_type=1,
        expert_tokens_num_flag=True,
        quant_mode=-1,
        active_expert_range=[0, num_experts],
        row_idx_type=0,
    )
    return rows, places, counts


def grouped_matmul(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Rows of ``x``, ``counts`` of them after another, each times its group's matrix.

    Args:
        x: (num_rows, k). weight: (num_groups, k, n), which may be a transposed view.
        counts: (num_groups,) int64, two groups at least.
    """
    out: Tensor = torch.ops.npu.npu_grouped_matmul(
        [x], [weight], group_list=counts, split_item=2, group_type=0, group_list_type=1
    )[0]
    return out


def finalize_routing(
    rows: Tensor, weights: Tensor, places: Tensor, experts: Tensor, bias: Tensor | None
) -> Tensor:
    """``sum_k weights[t, k] (rows[place of t, k] + bias[experts[t, k]])``.

    Args:
        rows: (num_tokens * top_k, hidden_size). weights: (num_tokens, top_k), same dtype.
        places: (num_tokens * top_k,) int32, where choice k of token t is at ``t + k * num_tokens``.
        experts: (num_tokens, top_k) int32. bias: (num_experts, hidden_size).
    """
    out: Tensor = torch.ops.npu.npu_moe_finalize_routing(
        rows, None, None, bias, weights, places, experts, 0, experts.shape[1]
    )
    return out


def scatter_kv(k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, places: Tensor) -> None:
    """Store tokens' K/V in pages, by CANN's own kernel.

    Args:
        k, v: (num_tokens, num_kv_heads, head_dim), contiguous.
        k_pool, v_pool: (num_pages, page_size, num_kv_heads, head_dim), same dtype.
        places: (num_tokens,) int32, ``page * page_size + offset``, none negative.
    """
    torch.ops.npu.npu_scatter_pa_kv_cache(k, v, k_pool, v_pool, places, cache_mode="Norm")


def reshape_and_cache(k: Tensor, v: Tensor, k_pool: Tensor, v_pool: Tensor, places: Tensor) -> None:
    """As ``scatter_kv``, by ATB's kernel."""
    torch.ops.atb._npu_reshape_and_cache(k, v, k_pool, v_pool, places)


def fused_attention(
    q: Tensor,
    k_pool: Tensor,
    v_pool: Tensor,
    *,
    layout: str,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    page_size: int,
    table: Tensor,
    lens: Sequence[int],
    ends: Sequence[int] | None,
    mask: Tensor | None,
    sparse_mode: int,
    back: int,
) -> Tensor:
    """Attention of rows over their pages.

    Args:
        q: ``"BSH"``: (rows, tokens, num_heads * head_dim); ``"TND"``: (tokens, num_heads,
            head_dim).
        k_pool, v_pool: (num_pages, page_size, num_kv_heads * head_dim).
        table: (rows, max_pages) int32, ids of pages.
        lens: each row's keys. ends: each row's tokens, in ``"TND"`` added up.
        mask: True hides. ``PLAIN``: (rows, max_pages * page_size), or None; ``CAUSAL`` and
            ``BAND``: (MASK_SIZE, MASK_SIZE), True above the diagonal.
        back: tokens before its own that one sees, for ``BAND``.

    Returns:
        Shape of ``q``.
    """
    out: Tensor = torch.ops.npu.npu_fused_infer_attention_score(
        q,
        k_pool,
        v_pool,
        atten_mask=mask,
        actual_seq_lengths=ends,
        actual_seq_lengths_kv=lens,
        block_table=table,
        num_heads=num_heads,
        scale=scale,
        pre_tokens=back,
        next_tokens=0 if sparse_mode == BAND else 2147483647,
        input_layout=layout,
        num_key_value_heads=num_kv_heads,
        sparse_mode=sparse_mode,
        block_size=page_size,
    )[0]
    return out
