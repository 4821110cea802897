"""A device of torch's called ``sample``, written in Python, whose memory is the host's.

A vendor has this already: a plugin of torch's, such as torch_npu. The rest of this package uses the
name alone. It is as strict as a real one: no op takes tensors of both sides.
"""

from typing import Any

import torch
from torch import Tensor, library
from torch.utils import _pytree as trees
from torch.utils import backend_registration

NAME, DEVICE = "sample", "sample:0"
_CROSSING = {"copy_", "_to_copy", "to"}


def why_not() -> str:
    """What keeps torch from knowing it: torch has room for one such device; "" if nothing does."""
    taken = torch._C._get_privateuse1_backend_name()
    if taken in ("privateuseone", NAME):
        return ""
    return f"torch's place for a device is taken by {taken!r}; use an environment without that"


def open_device() -> None:
    """Make torch know it, once in a process."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME)
        library.impl("aten::empty.memory_format", "privateuseone", _empty)
        library.impl("aten::empty_strided", "privateuseone", _empty)
        library.impl("aten::_copy_from", "privateuseone", _copy_from)


@torch.inference_mode(False)  # a tensor of one mode has no views in the other
def _on_host(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Every op on tensors of the device comes here, and the host computes it."""
    kwargs = dict(kwargs or {})
    leaves = kwargs.get("device") is not None and torch.device(kwargs["device"]).type != NAME
    if "device" in kwargs:
        kwargs["device"] = "cpu"
    given = [t for t in trees.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    strange = [t for t in given if t.device.type != NAME and t.dim()]
    if strange and func.overloadpacket.__name__ not in _CROSSING:
        raise RuntimeError(f"{func}: tensors on {strange[0].device} and on {DEVICE}")
    before = {id(t.host): t for t in given if isinstance(t, DeviceTensor)}
    args, kwargs = trees.tree_map_only(DeviceTensor, lambda t: t.host, (args, kwargs))
    made = func(*args, **kwargs)
    if leaves:
        return made
    return trees.tree_map_only(
        Tensor, lambda t: before[id(t)] if id(t) in before else DeviceTensor(t), made
    )


class DeviceTensor(Tensor):
    """A tensor on the device; ``host`` holds its numbers."""

    host: Tensor
    __torch_dispatch__: Any = staticmethod(_on_host)

    @staticmethod
    def __new__(cls, host: Tensor) -> "DeviceTensor":
        place = host.shape, host.stride(), host.storage_offset()
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls, *place, dtype=host.dtype, device=torch.device(DEVICE)
        )
        made.host = host
        return made


def _empty(*sizes: Any, dtype: Any = None, **others: Any) -> Tensor:
    """New tensors, of a size or of a size and strides."""
    make = torch.empty if len(sizes) == 1 else torch.empty_strided
    return DeviceTensor(make(*sizes, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Where torch fills a new tensor by itself, as in ``torch.tensor([1], device="sample")``."""
    ends = [t.host if isinstance(t, DeviceTensor) else t for t in (source, target)]
    ends[1].copy_(ends[0])
    return target
