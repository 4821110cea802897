"""The portable attention, interpreted, in the conformance kit's scenarios: a dense oracle."""

import pytest

pytest.importorskip("triton", reason="the portable kernels need triton")

from functools import partial

from tests.unit.triton.world import kit_cases

from tupelo.backend import Backend, Capabilities
from tupelo.conformance.case import Case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target
from tupelo.triton.attention import TritonAttention
from tupelo.triton.tuning import AttentionTuning, DecodeConfig, ExtendConfig

SPLIT = AttentionTuning(
    target_programs=64,
    min_split_tokens=1,
    decode=DecodeConfig(block=16, num_warps=1, num_stages=1),
    extend=ExtendConfig(rows=16, block=16, num_warps=1, num_stages=1),
)
"""Small tiles, so that the kit's short rows have several splits, tiles and parts of tiles."""


def cases(tuning: AttentionTuning) -> list[object]:
    backend = Backend(
        name="portable",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float32", "float16"),
            page_sizes=(1, 4, 16),
            head_dims=(16, 80, 128),
            same_step_sharing=True,
        ),
        attention=partial(TritonAttention, tuning=tuning),
    )
    return kit_cases(attention_cases(Target(backend)))


@pytest.mark.parametrize("case", cases(AttentionTuning()))
def test_usual_sizes(case: Case) -> None:
    case.run()


@pytest.mark.parametrize("case", cases(SPLIT))
def test_many_splits(case: Case) -> None:
    case.run()
