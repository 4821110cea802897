"""The TPU backend on torch's CPU device: programs run as they are, the Pallas kernel in torch.

What is left out is XLA alone: buckets, packing, functional storage and the kernel's layout are
real.
"""

from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor
from tupelo_tpu.attention import PallasAttention
from tupelo_tpu.kernels import KERNELS
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.pallas_shape import Shape
from tupelo_tpu.programs import Fn
from tupelo_tpu.runner import XlaRunner
from tupelo_tpu.sampler import XlaSampler

from tupelo.backend import Backend, Capabilities, GraphGrade, ReferenceAttention


def _sizes(tensors: Sequence[Tensor]) -> list[Hashable]:
    return [(tuple(t.shape), t.dtype) for t in tensors]


def run_eagerly(
    programs: dict[Hashable, tuple[list[Hashable], list[Hashable]]],
    key: Hashable,
    fn: Fn,
    args: Sequence[Tensor],
) -> list[Tensor]:
    """``Programs.run`` without compiling: the function itself, and the same checks each time."""
    before = [None if a.is_inference() else a._version for a in args]
    results = list(fn(*args))
    after = [None if a.is_inference() else a._version for a in args]
    assert before == after, f"{key}: an argument was written in place"
    assert not {id(r) for r in results} & {id(a) for a in args}, f"{key}: a result is an argument"
    sizes = (_sizes(args), _sizes(results))
    assert programs.setdefault(key, sizes) == sizes, f"{key}: sizes changed"
    return results


def torch_kernel(calls: list[Shape], shape: Shape, args: Sequence[Tensor]) -> Tensor:
    """``pallas_attention.attend`` by its docstring, in float32, token by token."""
    calls.append(shape)
    firsts, ends, cu, offsets, pages, q, sinks, k_pool, v_pool = args
    out = torch.zeros_like(q, dtype=torch.float32)
    tables = pages.view(-1, shape.max_pages)
    held = (-1, shape.num_kv_heads, shape.head_dim)
    rows = shape.groups * shape.block
    for block in range(len(firsts)):
        for row in range(int(firsts[block]), int(ends[block])):
            for token in range(int(cu[row]), int(cu[row + 1])):
                if token // shape.block != block:
                    continue
                last = token + int(offsets[row])
                first = 0 if shape.window is None else max(0, last - shape.window + 1)
                at = torch.arange(first, last + 1)
                stored = tables[row][at // shape.page_size].long(), at % shape.page_size
                keys, values = (p[stored].float().view(held) for p in (k_pool, v_pool))
                for group in range(shape.groups):
                    place = block * rows + group * shape.block + token % shape.block
                    query = q[:, place].float()
                    scores = torch.einsum("hd,lhd->hl", query, keys) * shape.scale
                    if shape.soft_cap is not None:
                        scores = shape.soft_cap * torch.tanh(scores / shape.soft_cap)
                    if shape.sinks:
                        sink = sinks[:, group * shape.block]
                        scores = torch.cat((scores, sink), dim=1)
                    weights = torch.softmax(scores, dim=1)[:, : len(at)]
                    out[:, place] = torch.einsum("hl,lhd->hd", weights, values)
    return out.to(q.dtype)


def stand_in(*, pallas: bool, calls: list[Shape] | None = None) -> Backend:
    """The backend's parts on the CPU, with attention through the kernel's door or without."""
    heard: list[Shape] = [] if calls is None else calls
    return Backend(
        name="stand_in",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float32",),
            page_sizes=(16,),
            head_dims=(128,) if pallas else (),
            sinks=True,
            latent_kv=not pallas,
            graph=GraphGrade.COMPILED,
            static_shapes=True,
            functional_kv=True,
            same_step_sharing=True,
        ),
        contract=1,
        kernels=KERNELS,
        attention=partial(PallasAttention, partial(torch_kernel, heard))
        if pallas
        else ReferenceAttention,
        kv_pool=XlaKVPool,
        sampler=XlaSampler,
        runner=XlaRunner,
    )
