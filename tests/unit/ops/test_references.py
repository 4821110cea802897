"""Each op's reference against its formula, on every sample; and samples as hard as they say."""

import numpy as np
import pytest
import torch
from tests.unit.ops import oracles

from tupelo.ops import OPS, LinearWeight, Sample
from tupelo.ops.samples import LARGE
from tupelo.ops.sampling import apply_token_bitmask

DTYPES = ("float32", "bfloat16", "float16")
FLOAT16_MAX = 65504
SAMPLES = [(op, sample) for op, spec in OPS.items() for sample in spec.samples()]


def outputs(op: str, sample: Sample) -> tuple[torch.Tensor, ...]:
    out = OPS[op].reference(**sample.args)
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=[f"{o}-{s.id}" for o, s in SAMPLES])
def test_a_reference_is_its_formula(op: str, sample: Sample) -> None:
    with np.errstate(over="ignore"):
        want = oracles.evaluate(op, dict(sample.args))
    got = outputs(op, sample)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        size = max(1.0, float(np.abs(w[np.abs(w) < 1e20]).max(initial=0.0)))
        assert tuple(g.shape) == w.shape
        torch.testing.assert_close(
            g.double(), torch.from_numpy(w).double(), rtol=2e-5, atol=1e-6 * size
        )


@pytest.mark.parametrize("op", OPS)
def test_every_op_has_the_hard_samples(op: str) -> None:
    found = {sample.id for sample in OPS[op].samples()}
    assert found >= {"typical", "one_row", "empty", "strided", "large"}
    assert len(found) == len(list(OPS[op].samples()))
    if op in (
        *("rms_norm", "layer_norm", "linear", "add_norm_linear", "gated_mlp", "mlp"),
        "moe_experts",
    ):
        assert "long" in found


@pytest.mark.parametrize("op", OPS)
def test_calls_name_the_sizes_of_their_inputs(op: str) -> None:
    spec = OPS[op]
    for sample in spec.samples():
        assert len(sample.call.shape) == len(spec.call_axes)
        assert sample.call.op == op
        assert set(spec.row_args) | set(spec.float32_args) <= set(sample.args)


@pytest.mark.parametrize("op", OPS)
def test_samples_are_seeded_and_fit_half_precision(op: str) -> None:
    for sample, again in zip(OPS[op].samples(), OPS[op].samples(), strict=True):
        for name, value in sample.args.items():
            tensors = value.tensors.values() if isinstance(value, LinearWeight) else [value]
            other = again.args[name]
            others = other.tensors.values() if isinstance(other, LinearWeight) else [other]
            for x, y in zip(tensors, others, strict=True):
                if isinstance(x, torch.Tensor):
                    assert torch.equal(x, y)
                    if x.is_floating_point() and name not in OPS[op].float32_args:
                        assert x.abs().amax() < FLOAT16_MAX if x.numel() else True
        for out in outputs(op, sample):
            if out.is_floating_point() and op != "apply_token_bitmask" and out.numel():
                finite = out[torch.isfinite(out)]
                assert finite.abs().amax() < FLOAT16_MAX


@pytest.mark.parametrize("op", OPS)
def test_strided_and_large_samples_are_what_they_say(op: str) -> None:
    samples = {sample.id: sample for sample in OPS[op].samples()}
    tensors = [v for v in samples["strided"].args.values() if isinstance(v, torch.Tensor)]
    assert any(not t.is_contiguous() and t.stride(-1) == 1 for t in tensors)
    empty = [v for v in samples["empty"].args.values() if isinstance(v, torch.Tensor)]
    assert any(t.shape[0] == 0 for t in empty)
    values = [v for v in samples["large"].args.values() if isinstance(v, torch.Tensor)]
    assert max(float(t.abs().max()) for t in values if t.numel()) > LARGE / 8


@pytest.mark.parametrize("op", OPS)
def test_tolerances_come_with_reasons_or_outputs_are_exact(op: str) -> None:
    spec = OPS[op]
    if spec.exact_outputs:
        assert not spec.tolerances
        return
    assert set(spec.tolerances) == set(DTYPES)
    num_outputs = len(outputs(op, next(spec.samples())))
    for limits in spec.tolerances.values():
        assert len(limits) in (1, num_outputs)
        assert all(len(limit.reason) > 10 for limit in limits)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_long_sum_shows_a_narrow_accumulator(dtype: str) -> None:
    """Sixteen exact terms between two roundings, as matrix units have, break the tolerance."""
    sample = next(s for s in OPS["linear"].samples() if s.id == "long")
    narrow = getattr(torch, dtype)
    x, w = sample.args["x"].to(narrow).float(), sample.args["weight"].weight.to(narrow).float()
    total = torch.zeros(x.shape[0], w.shape[0], dtype=narrow)
    for start in range(0, x.shape[1], 16):
        total += (x[:, start : start + 16] @ w[:, start : start + 16].T).to(narrow)
    want = x.double() @ w.double().T
    (limit,) = OPS["linear"].tolerances[dtype]
    share = (total.double() - want).abs() / (limit.absolute + limit.relative * want.abs())
    assert share.max() > 1.5


def test_the_mask_has_a_floor_that_half_precision_holds() -> None:
    logits = torch.ones(1, 40, dtype=torch.float16)
    out = apply_token_bitmask(logits, torch.tensor([[1, 0]], dtype=torch.int32))
    assert out.dtype is torch.float16
    assert torch.isfinite(out).all()
    assert out[0].tolist() == [1.0] + [torch.finfo(torch.float16).min] * 39
