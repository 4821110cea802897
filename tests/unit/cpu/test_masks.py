"""Masks by bytes: the reference's bits, whatever the sizes."""

import pytest
import torch

from tupelo.ops.sampling import NEGATIVE, apply_token_bitmask
from tupelo_cpu.masks import apply_token_bitmask as by_byte


@pytest.mark.parametrize(("rows", "vocab"), [(0, 96), (1, 1), (3, 77), (5, 96), (2, 49152)])
def test_masked_logits_are_the_references(rows: int, vocab: int) -> None:
    generator = torch.Generator().manual_seed(rows * vocab)
    logits = torch.randn(rows, vocab, generator=generator) * 1e4
    words = (rows, -(-vocab // 32))
    mask = torch.randint(-(2**31), 2**31, words, generator=generator).to(torch.int32)
    before = logits.clone()
    assert torch.equal(by_byte(logits, mask), apply_token_bitmask(logits, mask))
    assert torch.equal(logits, before)


def test_one_bit_lets_one_token_through() -> None:
    mask = torch.zeros(1, 3, dtype=torch.int32)
    mask[0, 1] = -(2**31)  # bit 31: the sign
    found = by_byte(torch.full((1, 96), 3.0), mask)
    assert found[0, 63] == 3.0
    assert (found == NEGATIVE).sum() == 95
