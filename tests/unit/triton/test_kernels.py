"""The records that backends register, and what keeps the folder apart from the rest of core."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

import subprocess
import sys

from tests.unit.triton.test_listed import TORCH_ONLY

from tupelo.ops import OPS, OpCall, OpTable, Tier, check_kernel
from tupelo.specs import QuantScheme
from tupelo.triton.kernels import portable_kernels, supports


def test_every_op_but_two_has_a_portable_kernel() -> None:
    kernels = portable_kernels()
    for kernel in kernels:
        check_kernel(kernel, OPS)
        assert kernel.tier is Tier.PORTABLE
    assert {k.op for k in kernels} == set(OPS) - TORCH_ONLY


def test_linear_is_for_few_rows() -> None:
    table = OpTable(OPS, portable_kernels())
    few = OpCall(op="linear", dtype="bfloat16", shape=(64, 64), max_rows=64)
    many = OpCall(op="linear", dtype="bfloat16", shape=(64, 64), max_rows=65)
    assert table.choose(few).name == "triton_linear"
    assert table.choose(many).tier is Tier.REFERENCE


def test_refusals_say_why() -> None:
    int4 = QuantScheme(name="int4", bits=4, group_size=32)
    assert "float64" in str(supports(OpCall(op="silu_mul", dtype="float64", shape=(8,))))
    quantised = OpCall(op="linear", dtype="float16", shape=(8, 8), scheme=int4)
    assert "int4" in str(supports(quantised))
    wide = OpCall(op="rms_norm", dtype="float16", shape=(100_000,))
    assert "100000" in str(supports(wide))


def test_core_does_not_load_triton() -> None:
    code = (
        "import sys, tupelo.engine; print('triton' in sys.modules, 'tupelo.triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
