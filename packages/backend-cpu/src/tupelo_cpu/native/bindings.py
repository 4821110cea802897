"""Loads the built kernels and declares their C functions, the same as in ``kernels.h``.

The kernels run on the OpenMP pool that torch runs on: its functions are looked up in torch's own
dependencies and handed to the library, which links none itself. So there is one pool, and
``torch.set_num_threads`` holds for both.
"""

import ctypes
import functools
import logging
from pathlib import Path

import torch

from tupelo.config import environment
from tupelo.errors import BackendError
from tupelo_cpu.native.builder import build

logger = logging.getLogger(__name__)

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

_SIGNATURES: dict[str, tuple[object, ...]] = {
    # x, weight, out, rows, width, eps, threads
    "rms_norm": (*[_POINTER] * 3, _LONG, _LONG, _FLOAT, _INT),
    # x, residual, weight, out, new_residual, rows, width, eps, threads
    "add_rms_norm": (*[_POINTER] * 5, _LONG, _LONG, _FLOAT, _INT),
    # x, out, rows, width, activation, threads
    "gate_mul": (*[_POINTER] * 2, _LONG, _LONG, _INT, _INT),
    # x, out, rows, width, activation, threads
    "activate": (*[_POINTER] * 2, _LONG, _LONG, _INT, _INT),
    # qkv, positions, cos_sin, q_norm, k_norm, eps, num_heads, num_kv_heads, head_dim,
    # max_positions, rotary_dim, q, k, v, rows, threads
    "norm_rope_qkv": (*[_POINTER] * 5, _FLOAT, *[_LONG] * 5, *[_POINTER] * 3, _LONG, _INT),
    # weight, bias, data, packed_bias, out_features, in_features, threads
    "pack": (*[_POINTER] * 4, _LONG, _LONG, _INT),
    # weight, x, out, rows, threads
    "linear": (*[_POINTER] * 3, _LONG, _INT),
    # gate_up, down, x, out, rows, activation, threads
    "gated_mlp": (*[_POINTER] * 4, _LONG, _INT, _INT),
    # weight, x, residual, norm, eps, out, new_residual, rows, threads
    "add_norm_linear": (*[_POINTER] * 4, _FLOAT, *[_POINTER] * 2, _LONG, _INT),
    # call, q, k, v, k_cache, v_cache, sinks, out, threads
    "paged_attention": (*[_POINTER] * 8, _INT),
}

_POOL_FUNCTIONS = ("GOMP_parallel", "GOMP_barrier", "omp_get_thread_num", "omp_get_num_threads")


class PackedWeightStruct(ctypes.Structure):
    """``PackedWeight`` of ``kernels.h``."""

    _fields_ = (("data", _POINTER), ("bias", _POINTER), ("n", _LONG), ("k", _LONG))


class AttentionCallStruct(ctypes.Structure):
    """``AttentionCall`` of ``kernels.h``."""

    _fields_ = (
        ("cu_seqlens_q", _POINTER),
        ("seq_lens", _POINTER),
        ("page_tables", _POINTER),
        ("slots", _POINTER),
        ("slot_mapping", _POINTER),
        ("num_rows", _LONG),
        ("num_tokens", _LONG),
        ("max_pages", _LONG),
        ("page_size", _LONG),
        ("num_heads", _LONG),
        ("num_kv_heads", _LONG),
        ("head_dim", _LONG),
        ("window", _LONG),
        ("chunked", _LONG),
        ("page_stride", _LONG),
        ("token_stride", _LONG),
        ("head_stride", _LONG),
        ("scale", _FLOAT),
        ("soft_cap", _FLOAT),
    )


class NativeLibrary:
    """The kernels of one built library: each C function ``tupelo_NAME`` as the attribute ``NAME``.

    Args:
        path: the library.

    Raises:
        BackendError: it cannot be loaded, or torch has no OpenMP runtime that it could share.

    Attributes:
        instruction_set: what it was compiled for.
        panel_columns: columns of a panel of packed weights.
    """

    def __init__(self, path: Path) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as error:
            raise BackendError(f"cannot load {path}: {error}") from error
        _share_threads(library)
        for name, types in _SIGNATURES.items():
            function = getattr(library, f"tupelo_{name}")
            function.argtypes, function.restype = types, None
            setattr(self, name, function)
        library.tupelo_instruction_set.restype = ctypes.c_char_p
        self.path = path
        self.instruction_set: str = library.tupelo_instruction_set().decode()
        self.panel_columns: int = library.tupelo_panel_columns()

    def __getattr__(self, name: str) -> "ctypes._NamedFuncPointer":
        raise AttributeError(f"the native library has no function {name!r}")


@functools.cache
def native_library(cache_dir: Path | None = None) -> tuple[NativeLibrary | None, str]:
    """The kernels, built on first use, and a line about them for people.

    Where they cannot be built or loaded the answer is None and the reason, which is also logged
    once: torch's own operations then do all the work, with the same results.

    Args:
        cache_dir: Tupelo's cache folder; None for the user's.
    """
    try:
        library = NativeLibrary(build(cache_dir or environment().cache_dir))
    except BackendError as error:
        logger.warning("no native CPU kernels, which costs speed only: %s", error)
        return None, f"native kernels unavailable: {error}"
    return library, f"native kernels for {library.instruction_set}"


def _share_threads(library: ctypes.CDLL) -> None:
    """Hand torch's thread pool over. A lookup in torch's library searches what torch itself links,
    so it finds the very runtime that torch's own loops run on."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        torch_library = ctypes.CDLL(str(path))
        functions = [getattr(torch_library, name) for name in _POOL_FUNCTIONS]
    except (OSError, AttributeError) as error:
        raise BackendError(f"torch's OpenMP runtime cannot be shared: {error}") from error
    library.tupelo_set_threads(*(ctypes.cast(f, _POINTER) for f in functions))
