"""Times the CPU backend's kernels against torch and against the machine's own limits.

    python benchmarks/cpu_ops.py [limits] [linear] [fused] [attention] [step] [--threads 2]

Every comparison is paired: the candidates take turns, and medians are reported. Weights and K/V
rotate through copies that exceed the caches, as the layers of a model do. ``bound`` is the larger
of bytes over measured bandwidth and operations over measured peak. The sizes are SmolLM2-135M's.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tupelo.ops import LinearWeight
from tupelo.specs import AttentionSpec
from tupelo_cpu.elementwise import ElementwiseOps
from tupelo_cpu.linear import LinearOps, PackedLinear
from tupelo_cpu.native.bindings import NativeLibrary, native_library
from tupelo_cpu.paged_attention import PagedAttention

HIDDEN, INNER, HEADS, KV_HEADS, DIM, LAYERS, VOCAB = 576, 1536, 9, 3, 64, 30, 49152
QKV = (HEADS + 2 * KV_HEADS) * DIM
SHAPES = {
    "qkv": (QKV, HIDDEN),
    "o": (HIDDEN, HEADS * DIM),
    "gate_up": (2 * INNER, HIDDEN),
    "down": (HIDDEN, INNER),
    "head": (VOCAB, HIDDEN),
}
ROWS = (1, 2, 4, 8, 16, 32, 128, 512, 1056)
COPIES_BYTES = 200e6  # more than any cache here
SPEC = AttentionSpec(group=0, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, scale=DIM**-0.5)

Candidate = Callable[[int], object]
Pair = tuple[Tensor, Tensor]


def paired(candidates: Sequence[Candidate], repeats: int) -> list[float]:
    """Median seconds of each candidate; they take turns, each given the repeat's number."""
    times: list[list[float]] = [[] for _ in candidates]
    for candidate in candidates:
        candidate(0)
    for repeat in range(repeats):
        for candidate, spent in zip(candidates, times, strict=True):
            start = time.perf_counter()
            candidate(repeat)
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]


def random_pair(*shape: int) -> Pair:
    """K and V, random."""
    return torch.randn(shape), torch.randn(shape)


def limits() -> tuple[float, float]:
    """Bytes a second read from memory, and float32 operations a second of the best product."""
    big = torch.ones(64 << 20)
    x, weight = torch.randn(2048, 2048), torch.randn(2048, 2048)
    library = require_library()
    ops = LinearOps(library)
    packed = ops.pack(LinearWeight(2048, 2048, {"weight": weight}))
    gemv_weights = [random_packed(ops, VOCAB, HIDDEN) for _ in range(2)]
    row = torch.randn(1, HIDDEN)
    read, own_read, product, own = paired(
        [
            lambda i: big.sum(),
            lambda i: ops.linear(row, gemv_weights[i % 2]),
            lambda i: F.linear(x, weight),
            lambda i: ops.linear(x, packed),
        ],
        9,
    )
    bandwidth = max(big.nbytes / read, VOCAB * HIDDEN * 4 / own_read)
    peak = 2 * 2048**3 / min(product, own)
    print(f"memory {bandwidth / 1e9:.1f} GB/s, float32 products {peak / 1e9:.0f} GFLOP/s")
    return bandwidth, peak


def require_library() -> NativeLibrary:
    """The native library, or the end of the program."""
    library, note = native_library()
    if library is None:
        raise SystemExit(note)
    return library


def random_packed(ops: LinearOps, rows: int, width: int) -> PackedLinear:
    """Packed random weights."""
    weight = torch.randn(rows, width) / width**0.5
    return ops.pack(LinearWeight(rows, width, {"weight": weight}))


def bench_linear(bandwidth: float, peak: float) -> None:
    """One product: plain torch, oneDNN on weights that it reordered, the packed kernel."""
    ops = LinearOps(require_library())
    print(f"{'linear':8}{'rows':>6}{'bound':>9}{'torch':>9}{'oneDNN':>9}{'packed':>9}  us")
    for name, (n, k) in SHAPES.items():
        copies = max(1, int(COPIES_BYTES / (4 * n * k)))
        plain = [torch.randn(n, k) / k**0.5 for _ in range(copies)]
        packed = [ops.pack(LinearWeight(n, k, {"weight": w})) for w in plain]
        for rows in ROWS if name != "head" else ROWS[:6]:
            x = torch.randn(rows, k)
            reordered = [torch.ops.mkldnn._reorder_linear_weight(w, rows) for w in plain]

            def onednn(i: int, x: Tensor = x, weights: list[Tensor] = reordered) -> object:
                weight = weights[i % len(weights)]
                return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")

            def torch_linear(i: int, x: Tensor = x, weights: list[Tensor] = plain) -> Tensor:
                return F.linear(x, weights[i % len(weights)])

            def own(i: int, x: Tensor = x, weights: list[PackedLinear] = packed) -> Tensor:
                return ops.linear(x, weights[i % len(weights)])

            times = paired([torch_linear, onednn, own], 60 if rows <= 32 else 15)
            bound = max(4 * n * k / bandwidth, 2 * rows * n * k / peak)
            cells = "".join(f"{t * 1e6:9.0f}" for t in (bound, *times))
            print(f"{name:8}{rows:6}{cells}  torch/packed {times[0] / times[2]:.2f}", flush=True)


def bench_fused() -> None:
    """Fused ops against the same work as separate native calls and as torch calls."""
    library = require_library()
    ops, single = LinearOps(library), ElementwiseOps(library)
    copies = 12
    plain = [torch.randn(2 * INNER, HIDDEN) / 24 for _ in range(copies)]
    plain_down = [torch.randn(HIDDEN, INNER) / 40 for _ in range(copies)]
    gate_up = [ops.pack(LinearWeight(2 * INNER, HIDDEN, {"weight": w})) for w in plain]
    down = [ops.pack(LinearWeight(HIDDEN, INNER, {"weight": w})) for w in plain_down]
    norm = torch.ones(HIDDEN)
    print(f"{'fused':18}{'rows':>6}{'torch':>9}{'separate':>9}{'fused':>9}  us")
    for rows in ROWS:
        x = torch.randn(rows, HIDDEN)

        def mlp_torch(i: int, x: Tensor = x) -> Tensor:
            gate, up = F.linear(x, plain[i % copies]).chunk(2, dim=-1)
            return F.linear(F.silu(gate) * up, plain_down[i % copies])

        def mlp_separate(i: int, x: Tensor = x) -> Tensor:
            hidden = single.silu_mul(ops.linear(x, gate_up[i % copies]))
            return ops.linear(hidden, down[i % copies])

        def mlp_fused(i: int, x: Tensor = x) -> Tensor:
            return ops.gated_mlp(x, "silu", gate_up[i % copies], down[i % copies])

        def norm_torch(i: int, x: Tensor = x) -> Tensor:
            total = x + x
            return F.linear(F.rms_norm(total, (HIDDEN,), norm, 1e-5), plain[i % copies])

        def norm_separate(i: int, x: Tensor = x) -> Tensor:
            normed, _ = single.add_rms_norm(x, x, norm, 1e-5)
            return ops.linear(normed, gate_up[i % copies])

        def norm_fused(i: int, x: Tensor = x) -> Tensor:
            return ops.add_norm_linear(x, x, norm, 1e-5, gate_up[i % copies])[0]

        for name, three in (
            ("gated_mlp", [mlp_torch, mlp_separate, mlp_fused]),
            ("add_norm_linear", [norm_torch, norm_separate, norm_fused]),
        ):
            times = paired(three, 60 if rows <= 32 else 15)
            print(f"{name:18}{rows:6}" + "".join(f"{t * 1e6:9.0f}" for t in times), flush=True)


def attention_case(
    rows: Sequence[tuple[int, int]], page_size: int, layers: int, library: NativeLibrary
) -> Candidate:
    """Attention of rows of ``(K/V length, new tokens)`` over randomly placed pages."""
    kernel = PagedAttention(library)
    counts = [-(-length // page_size) for length, _ in rows]
    pages = torch.split(torch.randperm(sum(counts)), counts)
    tables = torch.zeros(len(rows), max(counts), dtype=torch.int32)
    slots = []
    for i, (length, new) in enumerate(rows):
        tables[i, : counts[i]] = pages[i]
        tokens = torch.arange(length - new, length)
        slots.append(pages[i][tokens // page_size] * page_size + tokens % page_size)
    mapping = torch.cat(slots)
    shape = (sum(counts), page_size, KV_HEADS, DIM)
    caches = [random_pair(*shape) for _ in range(layers)]
    q = torch.randn(mapping.shape[0], HEADS, DIM)
    k, v = random_pair(mapping.shape[0], KV_HEADS, DIM)
    plan = kernel.plan(
        SPEC,
        page_size,
        torch.tensor([0] + [new for _, new in rows]).cumsum(0),
        torch.tensor([length for length, _ in rows]),
        tables,
        torch.arange(len(rows)),
        mapping,
    )
    return lambda i: kernel.forward(q, k, v, *caches[i % layers], plan)


def bench_attention(bandwidth: float, peak: float) -> None:
    """Paged attention against torch's attention over contiguous K/V."""
    library = require_library()
    print(f"{'attention':24}{'bound':>9}{'sdpa':>9}{'page 16':>9}{'page 1':>9}  us")
    for batch, length in ((1, 128), (1, 256), (1, 1024), (1, 8192), (16, 192), (16, 1072)):
        layers = max(2, int(COPIES_BYTES / (batch * length * KV_HEADS * DIM * 8)) // 2)
        layers = min(layers, LAYERS)
        kv = [random_pair(batch, KV_HEADS, length, DIM) for _ in range(layers)]
        q = torch.randn(batch, HEADS, 1, DIM)

        def sdpa(i: int, q: Tensor = q, kv: list[Pair] = kv) -> Tensor:
            k, v = kv[i % len(kv)]
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

        own = [attention_case([(length, 1)] * batch, page, layers, library) for page in (16, 1)]
        times = paired([sdpa, *own], 60)
        bound = batch * length * KV_HEADS * DIM * 8 / bandwidth
        cells = "".join(f"{t * 1e6:9.0f}" for t in (bound, *times))
        print(f"decode {batch:3} x {length:5}      {cells}", flush=True)
    for new, length in ((128, 128), (1024, 1024), (256, 1024)):
        q = torch.randn(1, HEADS, new, DIM)
        whole = random_pair(1, HEADS, length, DIM)
        mask = torch.ones(new, length).tril(length - new).bool() if new < length else None

        def sdpa_prefill(
            i: int,
            q: Tensor = q,
            kv: Pair = whole,
            mask: Tensor | None = mask,
        ) -> Tensor:
            return F.scaled_dot_product_attention(
                q, kv[0], kv[1], attn_mask=mask, is_causal=mask is None
            )

        own = [attention_case([(length, new)], page, 2, library) for page in (16, 1)]
        times = paired([sdpa_prefill, *own], 15)
        bound = 4 * DIM * HEADS * (new * (length - new) + new * (new + 1) / 2) / peak
        cells = "".join(f"{t * 1e6:9.0f}" for t in (bound, *times))
        print(f"prefill {new:5} of {length:5}  {cells}", flush=True)


def bench_step(bandwidth: float, peak: float) -> None:
    """All kernels of one model step in their order, with everything that isn't a kernel left out:
    the floor under a step's time, and the Python time inside it (the same calls on one row of a
    model whose weights are tiny)."""
    library = require_library()
    for batch, length, new in ((1, 192, 1), (16, 160, 1), (1, 1024, 1024)):
        whole = model_step(library, batch, length, new, HIDDEN, INNER, VOCAB)
        time_s = paired([whole], 9)[0]
        tokens = batch * new
        weights = LAYERS * (QKV * HIDDEN + HIDDEN**2 + 3 * INNER * HIDDEN) + VOCAB * HIDDEN
        bound = max(4 * weights / bandwidth, 2 * tokens * (weights - VOCAB * HIDDEN) / peak)
        print(
            f"step of {batch} x {new} tokens at {length}: {time_s * 1e3:.1f} ms, "
            f"bound of the weights alone {bound * 1e3:.1f} ms",
            flush=True,
        )
    torch.set_num_threads(1)
    tiny = model_step(library, 1, 1, 1, DIM, 32, 32)
    print(f"Python and call overhead of a step: {paired([tiny], 50)[0] * 1e3:.2f} ms")


def model_step(
    library: NativeLibrary, batch: int, length: int, new: int, hidden: int, inner: int, vocab: int
) -> Candidate:
    """One step of a model with SmolLM2's layers, at the given sizes."""
    ops, single, kernel = LinearOps(library), ElementwiseOps(library), PagedAttention(library)
    heads, kv_heads = (HEADS, KV_HEADS) if hidden == HIDDEN else (1, 1)
    qkv_rows = (heads + 2 * kv_heads) * DIM
    layers = [
        [
            random_packed(ops, *shape)
            for shape in (
                (qkv_rows, hidden),
                (hidden, heads * DIM),
                (2 * inner, hidden),
                (hidden, inner),
            )
        ]
        for _ in range(LAYERS)
    ]
    head, norm = random_packed(ops, vocab, hidden), torch.ones(hidden)
    spec = AttentionSpec(
        group=0, num_heads=heads, num_kv_heads=kv_heads, head_dim=DIM, scale=DIM**-0.5
    )
    pages = -(-length // 16)
    caches = [random_pair(batch * pages, 16, kv_heads, DIM) for _ in range(LAYERS)]
    tables = torch.arange(batch * pages, dtype=torch.int32).view(batch, pages)
    positions = torch.arange(length - new, length).repeat(batch)
    mapping = (torch.arange(batch) * pages * 16).repeat_interleave(new) + positions
    cos_sin = torch.randn(length, DIM)
    x = torch.randn(batch * new, hidden)
    last = torch.arange(1, batch + 1) * new - 1
    cu_seqlens, lens = torch.arange(batch + 1) * new, torch.full((batch,), length)

    def step(_: int) -> Tensor:
        slots = torch.arange(batch)
        plan = kernel.plan(spec, 16, cu_seqlens, lens, tables, slots, mapping)
        y, residual = x, None
        for (qkv_w, o_w, gate_up_w, down_w), cache in zip(layers, caches, strict=True):
            qkv, total = ops.add_norm_linear(y, residual, norm, 1e-5, qkv_w)
            q, k, v = single.norm_rope_qkv(
                qkv, positions, cos_sin, None, None, 1e-5, heads, kv_heads, DIM
            )
            attended = kernel.forward(q, k, v, *cache, plan)
            y = ops.linear(attended.view(batch * new, heads * DIM), o_w)
            y, residual = single.add_rms_norm(y, total, norm, 1e-5)
            y = ops.gated_mlp(y, "silu", gate_up_w, down_w)
        assert residual is not None
        return ops.add_norm_linear(y[last], residual[last], norm, 1e-5, head)[0]

    return step


def main() -> None:
    """Run the parts that are named, or all."""
    parts = ("limits", "linear", "fused", "attention", "step")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", default=parts, help=f"of {', '.join(parts)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - set(parts))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; parts: {', '.join(parts)}")
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    print(f"{native_library()[1]}, {args.threads} threads, torch {torch.__version__}")
    bandwidth, peak = limits()
    if "linear" in args.parts:
        bench_linear(bandwidth, peak)
    if "fused" in args.parts:
        bench_fused()
    if "attention" in args.parts:
        bench_attention(bandwidth, peak)
    if "step" in args.parts:
        bench_step(bandwidth, peak)


if __name__ == "__main__":
    main()
