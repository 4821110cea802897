"""How a product of few rows is launched, and the candidates that a backend may time."""

from dataclasses import dataclass, replace

from tupelo.triton.elementary import cdiv, power_of_two

MAX_ROWS = 64
"""Largest number of rows that these kernels are for: above it, they would read weights twice."""

PORTABLE_SHARED_BYTES = 65536
"""Shared memory that every target has for one program."""

_FEW_PROGRAMS = 512


@dataclass(frozen=True, slots=True)
class LinearConfig:
    """One way to launch a product.

    Attributes:
        block_n: outputs of one program. block_k: inputs of one step of its loop.
        splits: programs over the inputs of one output, whose sums a second launch adds up.
        num_warps, num_stages: Triton's.
    """

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1


def configs(
    shape: tuple[int, int],
    rows: int,
    *,
    itemsize: int = 2,
    gated: bool = False,
    shared_bytes: int = PORTABLE_SHARED_BYTES,
) -> tuple[LinearConfig, ...]:
    """Candidates for a product, the first of them the best guess.

    Args:
        shape: (out_features, in_features) of the weight.
        rows: of the input, 1 to ``MAX_ROWS``.
        itemsize: bytes of an element of input and weight.
        gated: an activation follows, so the weight's two halves are multiplied together.
        shared_bytes: shared memory of one program.
    """
    assert 1 <= rows <= MAX_ROWS
    found = _gemv_configs(shape) if rows == 1 else _tile_configs(shape, rows, itemsize, gated)
    fitting = [c for c in found if rows == 1 or _shared(c, rows, itemsize, gated) <= shared_bytes]
    return tuple(dict.fromkeys(fitting))


def _gemv_configs(shape: tuple[int, int]) -> list[LinearConfig]:
    longest = max(16, power_of_two(shape[1]))
    sizes = ((2, 2048, 4), (2, 1024, 4), (1, 2048, 4), (4, 1024, 4), (1, 4096, 8), (4, 2048, 8))
    return [LinearConfig(n, min(k, longest), warps, 1) for n, k, warps in sizes]


def _tile_configs(
    shape: tuple[int, int], rows: int, itemsize: int, gated: bool
) -> list[LinearConfig]:
    longest = max(16, power_of_two(shape[1]))
    outputs = shape[0] // 2 if gated else shape[0]
    found = []
    for block_n in (32, 16, 64):
        for block_k in (128, 256, 64) if itemsize <= 2 else (64, 32, 16):
            for stages in (4, 3, 2):
                one = LinearConfig(block_n, min(block_k, longest), 4, stages)
                found.append(one)
                programs = cdiv(outputs, block_n)
                if gated or programs >= _FEW_PROGRAMS:
                    continue
                found += [replace(one, splits=s) for s in (2, 4) if s * one.block_k < shape[1]]
    return found


def _shared(config: LinearConfig, rows: int, itemsize: int, gated: bool) -> int:
    """Bytes of shared memory that the stages of a tile take."""
    tile = max(16, power_of_two(rows)) + config.block_n * (2 if gated else 1)
    return tile * config.block_k * itemsize * config.num_stages
