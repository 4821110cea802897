"""vllm-xpu-kernels in torch, by its documentation: ops of its schemas, which torch checks calls by.

``schemas.txt`` holds what the package's release registers; ``ci/xpu/schemas.py`` compares it with
the package itself.
"""

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import library as torch_library

RELEASE = "0.1.16.2"
SCHEMAS = Path(__file__).with_name("schemas.txt").read_text().splitlines()

_LIBRARIES: list[Any] = []  # torch forgets what they registered once they are gone


def rms_norm(result: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> None:
    """Over the last axis; rounded before the weight."""
    assert result.is_contiguous()
    assert input.stride(-1) == 1
    assert weight.dtype is input.dtype is result.dtype
    wide = input.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    result.copy_((wide * scale).to(input.dtype) * weight)


def fused_add_rms_norm(input: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> None:
    """The residual becomes the sum, the input its norm."""
    assert residual.is_contiguous()
    residual.add_(input)
    rms_norm(input, residual, weight, epsilon)


def silu_and_mul(result: Tensor, input: Tensor) -> None:
    """The first half, activated, times the second."""
    gate, up = input.chunk(2, -1)
    assert input.is_contiguous()
    result.copy_(F.silu(gate) * up)


def gelu_tanh_and_mul(out: Tensor, input: Tensor) -> None:
    """Likewise, with gelu by tanh."""
    gate, up = input.chunk(2, -1)
    assert input.is_contiguous()
    out.copy_(F.gelu(gate, approximate="tanh") * up)


def weak_ref_tensor(input: Tensor) -> Tensor:
    """The same memory."""
    return input.view(input.shape)


def reshape_and_cache_flash(
    key: Tensor,
    value: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    slot_mapping: Tensor,
    kv_cache_dtype: str,
    k_scale: Tensor,
    v_scale: Tensor,
) -> None:
    """Tokens into pages (page, token of it, head, element); a place below 0 is nowhere."""
    assert kv_cache_dtype == "auto"
    assert slot_mapping.dtype is torch.int64
    assert float(k_scale) == float(v_scale) == 1.0
    kept = slot_mapping >= 0
    places = slot_mapping[kept]
    at = (places // key_cache.shape[1], places % key_cache.shape[1])
    for cache, new in ((key_cache, key), (value_cache, value)):
        assert new[0].is_contiguous()
        cache[at] = new[: len(kept)][kept]


def topk_softmax(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool,
    bias: Tensor | None,
    is_padding: Tensor | None,
) -> None:
    """The best experts of each row, by probability."""
    assert topk_weights.dtype is torch.float32
    assert topk_indices.dtype is token_expert_indices.dtype is torch.int32
    assert gating_output.is_contiguous()
    assert bias is is_padding is None
    best = torch.softmax(gating_output.float(), -1).topk(topk_weights.shape[1])
    total = best.values.sum(-1, keepdim=True) if renormalize else 1.0
    topk_weights.copy_(best.values / total)
    topk_indices.copy_(best.indices)


def remap_hidden_states(
    hidden_states: Tensor,
    hidden_states_scales: Tensor | None,
    remapped_hidden_states: Tensor,
    remapped_hidden_states_scales: Tensor | None,
    expert_map: Tensor | None,
    rows_per_expert: Tensor,
    unpermuted_row_to_permuted_row: Tensor,
    topk_ids: Tensor,
    total_experts_num: int,
    local_experts_num: int,
) -> None:
    """Rows sorted by expert, how many each has, and where each choice of each token went."""
    assert rows_per_expert.dtype is unpermuted_row_to_permuted_row.dtype is torch.int32
    assert not rows_per_expert.any()
    assert hidden_states.shape[1] * hidden_states.element_size() % 16 == 0
    flat = topk_ids.flatten().long()
    order = torch.argsort(flat, stable=True)
    remapped_hidden_states.copy_(hidden_states[order // topk_ids.shape[1]])
    rows_per_expert.copy_(torch.bincount(flat, minlength=local_experts_num))
    unpermuted_row_to_permuted_row.view(-1)[order] = torch.arange(len(flat), dtype=torch.int32)


def moe_gather(
    output: Tensor,
    moe_output: Tensor,
    topk_weights: Tensor,
    unpermuted_row_to_permuted_row: Tensor,
    num_experts: int,
) -> None:
    """Each token's outputs, weighed and summed in float32."""
    assert topk_weights.dtype is torch.float32
    assert topk_weights.shape[1] in (1, 2, 4, 6, 8, 10)
    parts = moe_output[unpermuted_row_to_permuted_row.long()].float()
    output.copy_((parts * topk_weights.unsqueeze(-1)).sum(1))


def cutlass_grouped_gemm_interface(
    ptr_A: Tensor,
    ptr_A_scale: Tensor | None,
    ptr_B: Tensor,
    ptr_B_scale: Tensor | None,
    ptr_bias: Tensor | None,
    ptr_D: Tensor,
    rows_per_expert: Tensor,
    N: int,
    K: int,
    num_experts: int,
) -> Tensor:
    """Rows of each expert times its weight (K, N)."""
    assert ptr_B.shape == (num_experts, K, N)
    assert N % 8 == 0
    for tensor in (ptr_A, ptr_B, ptr_D):
        assert tensor.is_contiguous()
    begin = 0
    for expert, count in enumerate(rows_per_expert.tolist()):
        part = slice(begin, begin + count)
        product = ptr_A[part] @ ptr_B[expert]
        ptr_D[part] = product if ptr_bias is None else product + ptr_bias[expert]
        begin += count
    assert begin == len(ptr_A)
    return ptr_D


def varlen_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    seqused_k: Tensor,
    leftpad_k: Tensor | None,
    block_table: Tensor,
    alibi_slopes: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    p_dropout: float,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    softmax_scale: float,
    softmax_sink: Tensor | None,
    zero_tensors: bool,
    is_causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    return_softmax: bool,
    gen: Any,
    num_splits: int | None,
    mix_batch: bool,
    splits_per_seq: Tensor | None,
    work_list: Tensor | None,
) -> list[Tensor]:
    """Each row's tokens over its pages."""
    assert q.stride(-1) == 1
    assert is_causal
    assert softcap == 0.0
    for tensor in (cu_seqlens_q, cu_seqlens_k, seqused_k, block_table):
        assert tensor.dtype is torch.int32
    ends = cu_seqlens_q.tolist()
    counts = [end - begin for begin, end in pairwise(ends)]
    assert mix_batch == (max_seqlen_q > 1 and 1 in counts)
    for row, (begin, end) in enumerate(pairwise(ends)):
        length = int(seqused_k[row])
        assert 1 <= length <= max_seqlen_k
        assert end - begin <= max_seqlen_q
        if end > begin:
            seen = (q[begin:end], k, v, block_table[row], length)
            out[begin:end] = attend(*seen, softmax_scale, window_size_left, softmax_sink)
    return [out, torch.empty(0)]


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    length: int,
    scale: float,
    back: int,
    sinks: Tensor | None,
) -> Tensor:
    """The last tokens of a row of ``length``, over its pages; ``back`` tokens before each are seen,
    all if it is -1."""
    at = torch.arange(length)
    pages, inside = table[at // k.shape[1]].long(), at % k.shape[1]
    group = q.shape[1] // k.shape[2]
    keys, values = (t[pages, inside].float().repeat_interleave(group, 1) for t in (k, v))
    scores = torch.einsum("thd,lhd->htl", q.float(), keys) * scale
    distance = (length - len(q) + torch.arange(len(q)))[:, None] - at
    hidden = distance < 0 if back < 0 else (distance < 0) | (distance > back)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        extra = sinks.float().view(-1, 1, 1).expand(-1, len(q), 1)
        scores = torch.cat((scores, extra), -1)
    weights = torch.softmax(scores, -1)[..., :length]
    return torch.einsum("htl,lhd->thd", weights, values).to(q.dtype)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    fn.__name__: fn
    for fn in (
        *(rms_norm, fused_add_rms_norm, silu_and_mul, gelu_tanh_and_mul, weak_ref_tensor),
        *(reshape_and_cache_flash, topk_softmax, remap_hidden_states, moe_gather),
        *(cutlass_grouped_gemm_interface, varlen_fwd),
    )
}


def install() -> None:
    """Register the ops with torch, and let their package be importable; once a process. What
    ``FUNCTIONS`` holds when an op is called serves."""
    sys.modules["vllm_xpu_kernels"] = ModuleType("vllm_xpu_kernels")
    for line in SCHEMAS:
        extension, _, schema = line.partition("::")
        sys.modules[f"vllm_xpu_kernels.{extension}"] = ModuleType(extension)
        name = schema.partition("(")[0]
        namespace = "_C_cache_ops" if "cache" in name else extension
        library = torch_library.Library(namespace, "FRAGMENT")
        library.define(schema)
        library.impl(name, partial(_call, name), "CPU")
        _LIBRARIES.append(library)


def _call(name: str, *args: Any, **kwargs: Any) -> Any:
    return FUNCTIONS[name](*args, **kwargs)
