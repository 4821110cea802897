"""What the Pallas kernel is compiled for, and what it cannot do; imports nothing of JAX."""

from dataclasses import asdict, dataclass, replace

from tupelo.specs import AttentionSpec

KEYS = 128
"""K/V tokens of one piece, at least a page."""

LANES, SUBLANES = 128, 16
"""A tile of 16-bit numbers: a head is whole tiles wide, a page whole tiles high."""

VMEM_BYTES = 12 << 20
"""What a program may hold of a core's fast memory, of which XLA gives kernels 16 MiB on v5e."""

SMEM_BYTES = 512 << 10
"""What page tables may take of a core's memory for scalars, 1 MiB on v5e."""

WIDEST, NARROWEST = 128, 8
"""Rows of a product, queries times heads of a group, that a block aims at; its fewest tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape(AttentionSpec):
    """What the kernel is compiled for: a kind of layer, in steps of certain sizes.

    Attributes:
        page_size: tokens a page. max_pages: width of the page tables.
        block: tokens of a block, a power of two; the step's tokens are a multiple of it.
    """

    page_size: int
    max_pages: int
    block: int

    @property
    def groups(self) -> int:
        """Query heads of a K/V head."""
        return self.num_heads // self.num_kv_heads

    @property
    def pages(self) -> int:
        """Pages of a piece."""
        return max(1, KEYS // self.page_size)

    @property
    def keys(self) -> int:
        """Tokens of a piece."""
        return self.pages * self.page_size

    def vmem_bytes(self, kv_bytes: int, q_bytes: int) -> int:
        """What a program of the grid holds: pieces of K and V, queries and results twice, sums."""
        rows = self.num_kv_heads * self.groups * self.block
        pieces = 2 * 2 * self.keys * self.num_kv_heads * self.head_dim * kv_bytes
        ends = 2 * 2 * rows * self.head_dim * q_bytes
        return pieces + ends + rows * (self.head_dim + 2 * 128) * 4


def refusal(kind: AttentionSpec, page_size: int, max_pages: int) -> str:
    """Why the kernel does not serve such layers; "" if it does."""
    if kind.value_dim is not None:
        return "K/V are compressed"
    if kind.chunked:
        return "windows are chunks"
    if kind.head_dim % LANES:
        return f"head_dim {kind.head_dim} is no multiple of {LANES}"
    if page_size % SUBLANES:
        return f"page_size {page_size} is no multiple of {SUBLANES}"
    if NARROWEST * max_pages * 4 > SMEM_BYTES:
        return f"page tables of {max_pages} pages exceed the memory for scalars"
    return ""


def shape_for(
    kind: AttentionSpec, page_size: int, max_pages: int, tokens: int, rows: int
) -> Shape | None:
    """The kernel for a step of so many tokens and rows; None where it does not fit on the chip."""
    groups = kind.num_heads // kind.num_kv_heads
    block = NARROWEST
    while tokens > rows and 2 * block * groups <= WIDEST and 2 * block <= tokens:
        block *= 2
    layer = asdict(replace(kind, group=0))  # one kernel for all page groups
    shape = Shape(**layer, page_size=page_size, max_pages=max_pages, block=block)
    fits = shape.vmem_bytes(4, 4) <= VMEM_BYTES and rows * max_pages * 4 <= SMEM_BYTES
    return shape if fits and tokens % block == 0 else None
