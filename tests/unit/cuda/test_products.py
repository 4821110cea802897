"""Every way to compute a product against the op's reference, and page lists, interpreted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from tupelo_cuda.cublaslt import LtConfig, parse_name
from tupelo_cuda.kernels import known_choices
from tupelo_cuda.paged_kernels import list_pages
from tupelo_cuda.products import candidates, named
from tupelo_cuda.ragged import ragged

from tupelo.ops import OPS, LinearWeight
from tupelo.triton.choices import ChoiceTable, Product, Run
from tupelo.triton.products import ProductOps

DTYPE = torch.float16
CLOSE = {"atol": 2e-2, "rtol": 2e-2}


def _weight(out_features: int, in_features: int, *, bias: bool, seed: int) -> LinearWeight:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator) / in_features**0.5
    extra = torch.randn(out_features, generator=generator).to(DTYPE) if bias else None
    return LinearWeight(out_features, in_features, {"weight": weight.to(DTYPE)}, bias=extra)


def _rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).to(DTYPE)


@pytest.fixture(autouse=True)
def _small_weights_have_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tupelo.triton.products.MIN_ELEMENTS", 0)


def _forced(name: str) -> tuple[ProductOps, list[str]]:
    """Ops that take the way called ``name`` (its beginning), and the kinds of product computed."""
    kinds: list[str] = []

    def ways(product: Product) -> dict[str, Run]:
        found = candidates(product)
        chosen = next((n for n in found if n.startswith(name)), next(iter(found)))
        kinds.append(f"{product.kind} {chosen}")
        return {chosen: found[chosen]}

    return ProductOps(ChoiceTable(ways, lambda *_: {})), kinds


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("rows", [1, 3, 17, 65])
@pytest.mark.parametrize("name", ["cublas", "triton"])
def test_all_ops_by_each_way(name: str, rows: int, bias: bool) -> None:
    ops, kinds = _forced(name)
    x, residual = _rows(rows, 48), _rows(rows, 48, 1)
    norm = torch.rand(48).to(DTYPE) + 0.5
    up = _weight(160, 48, bias=bias, seed=2)
    down = _weight(48, 80, bias=bias, seed=3)
    wide = _weight(48, 160, bias=bias, seed=4)
    reference = {name: spec.reference for name, spec in OPS.items()}
    torch.testing.assert_close(ops.linear(x, up), reference["linear"](x, up), **CLOSE)
    for activation in ("silu", "gelu"):
        got = ops.gated_mlp(x, activation, up, down)
        torch.testing.assert_close(got, reference["gated_mlp"](x, activation, up, down), **CLOSE)
    for activation, back in (("gelu_erf", wide), ("gelu_tanh", wide), ("gelu_erf_mul", down)):
        got = ops.mlp(x, activation, up, back)
        torch.testing.assert_close(got, reference["mlp"](x, activation, up, back), **CLOSE)
    for before in (None, residual):
        out, total = ops.add_norm_linear(x, before, norm, 1e-5, up)
        want, sums = reference["add_norm_linear"](x, before, norm, 1e-5, up)
        torch.testing.assert_close(out, want, **CLOSE)
        torch.testing.assert_close(total, sums, **CLOSE)
    used = any(kind.split()[1].startswith(name) for kind in kinds)
    assert used == (name == "cublas" or rows <= 64)
    assert ("add_norm" in {kind.split()[0] for kind in kinds}) == (rows == 1)


def test_float32_and_many_rows_are_left_to_the_libraries() -> None:
    assert list(candidates(Product("linear", 64, 32, "float32", 1))) == ["cublas"]
    assert list(candidates(Product("linear", 64, 32, "bfloat16", 128))) == ["cublas", "cublaslt"]
    small = candidates(Product("gated_silu", 64, 32, "bfloat16", 16))
    assert next(iter(small)) == "cublas"
    assert any(name.startswith("triton_") for name in small)


def test_an_algorithm_is_found_again_by_its_name() -> None:
    config = LtConfig(family=66, tile=197, splits=1, variant=2)
    assert parse_name(config.name) == config
    assert [parse_name(name) for name in ("cublas", "lt_", "lt_66_1_2", "lt_66_1_2_x")] == [
        None
    ] * 4
    many = Product("linear", 64, 32, "bfloat16", 1024)
    assert named(many, config.name) is not None
    assert named(many, "cublas") is None
    for other in (replace(many, bias=True), replace(many, dtype="float32"), replace(many, rows=1)):
        assert named(other, config.name) is None


def test_an_algorithm_leaves_row_counts_far_from_its_bucket_to_the_library() -> None:
    weight = _weight(64, 32, bias=False, seed=1)
    run = named(Product("linear", 64, 32, "float16", 1024), "lt_66_197_1_2")
    assert run is not None
    x = _rows(100, 32)
    torch.testing.assert_close(run(x, weight), OPS["linear"].reference(x, weight), **CLOSE)


def test_page_lists_are_the_tables_rows_one_after_another() -> None:
    random = np.random.default_rng(0)
    table = torch.from_numpy(random.integers(-1, 500, (6, 300)).astype(np.int32))
    slots = torch.tensor([4, 0, 5])
    pages = ragged(np.array([4100, 3, 77], np.int32), 16)
    out = torch.full((int(pages.indptr[-1]) + 1,), -7, dtype=torch.int32)
    list_pages(table, slots, torch.from_numpy(pages.indptr), out, 3, pages.max_pages)
    counts = np.diff(pages.indptr).tolist()
    rows = [table[s, :n].clamp(min=0) for s, n in zip(slots.tolist(), counts, strict=True)]
    assert torch.equal(out, torch.cat([*rows, torch.tensor([-7], dtype=torch.int32)]))


def test_small_weights_have_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert list(candidates(Product("linear", 1023, 1024, "bfloat16", 16))) == ["cublas"]
    assert len(candidates(Product("linear", 1024, 1024, "bfloat16", 16))) > 2


def test_shipped_choices_are_ways_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shipped = known_choices("NVIDIA H100 80GB HBM3")
    assert len(shipped) > 30
    for key, name in shipped.items():
        kind, shape, dtype, rows = key.split()
        out_features, in_features = map(int, shape.split("x"))
        product = Product(kind, out_features, in_features, dtype, int(rows))
        assert product.key() == key
        assert name in candidates(product) or named(product, name), key
    assert known_choices("some other GPU") == {}


def test_ragged_pages_by_hand() -> None:
    got = ragged(np.array([20, 5, 33, 16], np.int32), 16)
    assert got.indptr.tolist() == [0, 2, 3, 6, 7]
    assert got.last.tolist() == [4, 5, 1, 16]
    assert got.max_pages == 3
    assert {a.dtype for a in got} == {np.dtype(np.int32)}
