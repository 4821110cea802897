"""The Pallas kernel in torch-xla's programs: JAX lowers it for a TPU, torch-xla calls the result.

JAX runs nothing here and opens no device: the TPU is torch-xla's. What it lowers is meant for a
compiler of another version than its own, as for a file that is kept (``jax.export``): torch-xla's
libtpu is older than the newest form of such kernels.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tupelo_tpu.pallas_shape import Shape

Sizes = tuple[tuple[tuple[int, ...], str], ...]
"""Shape and type of each argument."""


def attend(shape: Shape, args: Sequence[Tensor]) -> Tensor:
    """``pallas_attention.attend`` of tensors, as part of the program that is traced."""
    from torch_xla import _XLAC as xla

    sizes = tuple((tuple(a.shape), str(a.dtype).removeprefix("torch.")) for a in args)
    q = args[5]
    outs = xla._xla_tpu_custom_call(list(args), payload(shape, sizes), [list(q.shape)], [q.dtype])
    out: Tensor = outs[0]
    return out


@functools.lru_cache(maxsize=256)
def payload(shape: Shape, sizes: Sizes) -> str:
    """The kernel for these sizes, as the TPU's compiler takes it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.export
    from jax.interpreters import mlir
    from jaxlib.mlir import ir

    from tupelo_tpu.pallas_attention import attend as kernel

    args = [jax.ShapeDtypeStruct(size, dtype) for size, dtype in sizes]
    traced = jax.jit(functools.partial(kernel, shape))
    text = jax.export.export(traced, platforms=["tpu"])(*args).mlir_module()
    with mlir.make_ir_context():
        found = [_config(op) for op in _operations(ir.Module.parse(text))]
    (config,) = [config for config in found if config is not None]
    return config


def _operations(module: Any) -> list[Any]:
    return [
        op
        for function in module.body.operations
        for block in function.regions[0].blocks
        for op in block.operations
    ]


def _config(op: Any) -> str | None:
    if op.name != "stablehlo.custom_call":
        return None
    target = op.attributes["call_target_name"].value
    assert target == "tpu_custom_call", f"the kernel became {target}"
    return str(op.attributes["backend_config"].value)


def sinks_column(sinks: Tensor | None, shape: Shape, device: torch.device) -> Tensor:
    """Sinks of a layer as the kernel reads them: (num_kv_heads, groups * block, 1) float32."""
    size = (shape.num_kv_heads, shape.groups, 1)
    column = torch.zeros(size, device=device) if sinks is None else sinks.float().view(size)
    return column.repeat_interleave(shape.block, dim=1)
