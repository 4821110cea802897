"""Paged attention against a dense float64 computation, and its bit-exact invariances."""

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from tupelo.specs import AttentionSpec
from tupelo_cpu.native.bindings import NativeLibrary
from tupelo_cpu.paged_attention import PagedAttention, supports_attention


@dataclass
class Sequence:
    """One request's whole history: q (n, heads, d), k and v (n, kv_heads, d), and its pages."""

    q: Tensor
    k: Tensor
    v: Tensor
    pages: list[int] = field(default_factory=list)


@dataclass
class World:
    """Sequences over one pool, computed piece by piece."""

    spec: AttentionSpec
    page_size: int
    sequences: list[Sequence]
    kernel: PagedAttention
    heads_first: bool = False
    sinks: Tensor | None = None

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        needed = [-(-s.q.shape[0] // self.page_size) for s in self.sequences]
        pages = torch.randperm(sum(needed) + 3, generator=generator).tolist()
        for sequence, count in zip(self.sequences, needed, strict=True):
            if not sequence.pages:
                sequence.pages, pages = pages[:count], pages[count:]
        size = max([p for s in self.sequences for p in s.pages], default=0) + 4
        shape = (size, self.page_size, self.spec.num_kv_heads, self.spec.head_dim)
        if self.heads_first:
            shape = (shape[0], shape[2], shape[1], shape[3])
        # What was never written is NaN: reading it would show.
        self.caches = [torch.full(shape, float("nan")) for _ in "kv"]
        if self.heads_first:
            self.caches = [c.transpose(1, 2) for c in self.caches]

    def step(self, pieces: list[tuple[int, int, int]], padding: int = 0) -> list[Tensor]:
        """Run ``(sequence, begin, end)`` pieces as the rows of one batch; outputs per piece."""
        lens = [end - begin for _, begin, end in pieces]
        total = sum(lens)
        parts = [
            torch.cat([getattr(self.sequences[i], name)[b:e] for i, b, e in pieces])
            if pieces
            else torch.zeros(0, heads, self.spec.head_dim)
            for name, heads in (
                ("q", self.spec.num_heads),
                ("k", self.spec.num_kv_heads),
                ("v", self.spec.num_kv_heads),
            )
        ]
        parts = [torch.cat([p, torch.full((padding, *p.shape[1:]), 1e9)]) for p in parts]
        slot_mapping = [
            s.pages[t // self.page_size] * self.page_size + t % self.page_size
            for i, b, e in pieces
            for s in [self.sequences[i]]
            for t in range(b, e)
        ] + [-1] * padding
        width = max([len(s.pages) for s in self.sequences], default=1)
        tables = torch.tensor(
            [s.pages + [10**6] * (width - len(s.pages)) for s in self.sequences],
            dtype=torch.int32,
        )
        plan = self.kernel.plan(
            self.spec,
            self.page_size,
            torch.tensor([0, *lens]).cumsum(0).to(torch.int32),
            torch.tensor([e for _, _, e in pieces], dtype=torch.int32),
            tables,
            torch.tensor([i for i, _, _ in pieces], dtype=torch.int64),
            torch.tensor(slot_mapping, dtype=torch.int64),
        )
        q, k, v = parts
        k_cache, v_cache = self.caches
        out = self.kernel.forward(q, k, v, k_cache, v_cache, plan, self.sinks)
        assert torch.equal(out[total:], torch.zeros_like(out[total:]))
        return list(torch.split(out[:total], lens)) if pieces else []


def dense_attention(world: World, index: int) -> Tensor:
    """All outputs of one sequence in float64, from the whole history at once."""
    s, spec = world.sequences[index], world.spec
    group = spec.num_heads // spec.num_kv_heads
    q, k, v = s.q.double(), s.k.double(), s.v.double()
    n = q.shape[0]
    out = torch.empty(n, spec.num_heads, spec.head_dim, dtype=torch.float64)
    for head in range(spec.num_heads):
        scores = q[:, head] @ k[:, head // group].T * spec.scale
        if spec.soft_cap is not None:
            scores = torch.tanh(scores / spec.soft_cap) * spec.soft_cap
        query, key = torch.arange(n)[:, None], torch.arange(n)[None, :]
        hidden = key > query
        if spec.window is not None:
            hidden = hidden | (key <= query - spec.window)
            if spec.chunked:
                hidden = hidden | (key // spec.window < query // spec.window)
        scores = scores.masked_fill(hidden, float("-inf"))
        if world.sinks is not None:
            sink = world.sinks[head].double().expand(n, 1)
            weights = torch.softmax(torch.cat([scores, sink], dim=1), dim=1)[:, :-1]
        else:
            weights = torch.softmax(scores, dim=1)
        out[:, head] = weights @ v[:, head // group]
    return out


def make_world(
    library: NativeLibrary,
    lengths: list[int],
    *,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 32,
    page_size: int = 16,
    window: int | None = None,
    chunked: bool = False,
    soft_cap: float | None = None,
    size: float = 1.0,
    heads_first: bool = False,
    sinks: bool = False,
    seed: int = 0,
) -> World:
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int, h: int) -> Tensor:
        return torch.randn(n, h, head_dim, generator=generator) * size

    spec = AttentionSpec(
        group=0,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        window=window,
        chunked=chunked,
        soft_cap=soft_cap,
    )
    sequences = [Sequence(draw(n, heads), draw(n, kv_heads), draw(n, kv_heads)) for n in lengths]
    extra = torch.randn(heads, generator=generator) if sinks else None
    return World(spec, page_size, sequences, PagedAttention(library), heads_first, extra)


def check(world: World, got: dict[int, Tensor], tolerance: float = 2e-6) -> None:
    for index, out in got.items():
        want = dense_attention(world, index)[-out.shape[0] :]
        assert out.isfinite().all()
        scale = max(1.0, want.abs().max().item())
        assert (out.double() - want).abs().max().item() <= tolerance * scale


def fill(world: World, upto: list[int]) -> None:
    """Store the first tokens of each sequence, as an earlier step did."""
    world.step([(i, 0, n) for i, n in enumerate(upto) if n > 0])


CASES = {
    "gqa1": {"heads": 4, "kv_heads": 4},
    "gqa3": {"heads": 9, "kv_heads": 3, "head_dim": 64},
    "gqa8": {"heads": 8, "kv_heads": 1},
    "head_dim_96": {"head_dim": 96},
    "head_dim_256": {"heads": 4, "kv_heads": 1, "head_dim": 256},
    "head_dim_odd": {"head_dim": 20},
    "head_dim_tiny": {"head_dim": 4},
    "window": {"window": 37},
    "window_1": {"window": 1},
    "window_long": {"window": 140},
    "chunked": {"window": 37, "chunked": True},
    "chunked_long": {"window": 140, "chunked": True},
    "soft_cap": {"soft_cap": 20.0, "size": 3.0},
    "soft_cap_and_window": {"soft_cap": 5.0, "window": 50, "size": 3.0},
    "sinks": {"sinks": True},
    "heads_first_pool": {"heads_first": True},
    "large_values": {"size": 30.0},
    "page_1": {"page_size": 1},
    "page_4": {"page_size": 4},
    "page_7": {"page_size": 7},
    "page_64": {"page_size": 64},
    "page_200": {"page_size": 200},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_mixed_batch_matches_dense(library: NativeLibrary, options: dict[str, object]) -> None:
    """Decode rows, a first chunk, a later chunk and padding tokens in one call."""
    lengths = [1, 130, 257, 45, 300]
    begins = [0, 129, 256, 0, 170]
    world = make_world(library, lengths, **options)  # type: ignore[arg-type]
    fill(world, begins)
    outs = world.step(
        [(i, b, n) for i, (b, n) in enumerate(zip(begins, lengths, strict=True))], padding=3
    )
    # Logits of some 5,000 carry a rounding error of 1e-3 in float32, which the exponential makes a
    # relative error of the weights.
    check(world, dict(enumerate(outs)), 1e-3 if options.get("size") == 30.0 else 2e-6)


def test_one_decode_row_split_over_many_blocks(library: NativeLibrary) -> None:
    world = make_world(library, [1500], heads=3, kv_heads=1, head_dim=64)
    fill(world, [1499])
    check(world, {0: world.step([(0, 1499, 1500)])[0]})


def test_whole_prompt(library: NativeLibrary) -> None:
    world = make_world(library, [700], heads=3, kv_heads=1, head_dim=64)
    check(world, {0: world.step([(0, 0, 700)])[0]})


def test_rows_share_pages_that_the_same_step_fills(library: NativeLibrary) -> None:
    """A second request attends to a prefix that the first one computes in this very step."""
    world = make_world(library, [64, 90], page_size=16)
    owner, sharer = world.sequences
    sharer.pages[:4] = owner.pages
    for name in ("q", "k", "v"):
        getattr(sharer, name)[:64] = getattr(owner, name)
    outs = world.step([(1, 64, 90), (0, 0, 64)])
    check(world, {1: outs[0], 0: outs[1]})


def test_empty_batch_and_empty_rows(library: NativeLibrary) -> None:
    world = make_world(library, [20, 20])
    assert world.step([]) == []
    outs = world.step([(1, 0, 0), (0, 0, 20)], padding=2)
    assert outs[0].shape[0] == 0
    check(world, {0: outs[1]})


def test_padding_is_not_stored(library: NativeLibrary) -> None:
    world = make_world(library, [10], page_size=8)
    world.step([(0, 0, 10)], padding=4)
    written = world.caches[0].isfinite().all(-1).all(-1).sum().item()
    assert written == 10


@pytest.mark.parametrize("chunk", [1, 16, 37, 64, 128, 200])
@pytest.mark.parametrize("window", [None, 90])
def test_chunking_does_not_change_a_bit(
    library: NativeLibrary, chunk: int, window: int | None
) -> None:
    lengths = [330]
    whole = make_world(library, lengths, heads=6, kv_heads=2, window=window)
    want = whole.step([(0, 0, 330)])[0]
    world = make_world(library, lengths, heads=6, kv_heads=2, window=window)
    got = [world.step([(0, b, min(b + chunk, 330))])[0] for b in range(0, 330, chunk)]
    assert torch.equal(torch.cat(got), want)


@pytest.mark.parametrize("page_size", [1, 5, 64])
def test_page_size_does_not_change_a_bit(library: NativeLibrary, page_size: int) -> None:
    want = make_world(library, [300]).step([(0, 0, 300)])[0]
    got = make_world(library, [300], page_size=page_size).step([(0, 0, 300)])[0]
    assert torch.equal(got, want)


@pytest.mark.parametrize("batch", [2, 3, 17, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_batch_and_threads_do_not_change_a_bit(
    library: NativeLibrary, batch: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(batch)
    lengths = torch.randint(1, 400, (batch,), generator=generator).tolist()
    begins = [n - 1 if i % 3 else n // 2 for i, n in enumerate(lengths)]
    together = make_world(library, lengths)
    fill(together, begins)
    torch.set_num_threads(threads)
    pieces = [(i, b, n) for i, (b, n) in enumerate(zip(begins, lengths, strict=True))]
    outs = together.step(pieces)
    torch.set_num_threads(2)
    alone = make_world(library, lengths)
    fill(alone, begins)
    for piece, out in zip(pieces, outs, strict=True):
        assert torch.equal(alone.step([piece])[0], out)


@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "change", "reason"),
    [
        ("float32", "float32", {}, None),
        ("bfloat16", "float32", {}, "float32"),
        ("float32", "bfloat16", {}, "float32"),
        ("float32", "float32", {"num_heads": 7}, "multiple"),
    ],
)
def test_predicate(dtype: str, kv_dtype: str, change: dict[str, int], reason: str | None) -> None:
    spec = AttentionSpec(group=0, num_heads=6, num_kv_heads=2, head_dim=32, scale=1.0)
    said = supports_attention(replace(spec, **change), dtype, kv_dtype)
    assert said is None if reason is None else reason in (said or "")
