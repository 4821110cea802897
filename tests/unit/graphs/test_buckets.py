"""The ladder, the packed inputs of a decode step, and which steps a graph may hold."""

import numpy as np
import pytest
import torch

from tupelo.backend.graphs.buckets import (
    DecodeLayout,
    at_least,
    decode_ladder,
    idle_batch,
    is_decode,
)
from tupelo.batch import LAST_TOKEN, Batch, Bucket, PageDelta


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 9, 64, 255, 256, 257, 300, 1024])
def test_ladder_ends_where_every_batch_fits(most: int) -> None:
    ladder = decode_ladder(most)
    assert list(ladder) == sorted(set(ladder))
    assert ladder[0] == 1
    assert most <= ladder[-1] < most + 32
    for wanted in range(1, most + 1):
        rung = at_least(ladder, wanted)
        assert rung is not None
        waste = rung - wanted
        assert 0 <= waste < (8 if wanted <= 256 else 32)
    assert at_least(ladder, ladder[-1] + 1) is None


def test_ladder_of_256_has_every_eighth() -> None:
    assert decode_ladder(256) == (1, 2, 4, *range(8, 257, 8))
    assert decode_ladder(512)[-9:] == (256, 288, 320, 352, 384, 416, 448, 480, 512)


def _batch(num_deltas: int = 2) -> Batch:
    rows = np.array([5, 0, 3], np.int32)
    lens = np.array([7, 33, 16], np.int32)
    pages = np.arange(100, 100 + num_deltas, dtype=np.int32)
    delta = PageDelta(
        np.full(num_deltas, 3, np.int32), np.arange(num_deltas, dtype=np.int32), pages
    )
    return Batch(
        step=9,
        slots=rows,
        num_decode_rows=3,
        cu_seqlens_q=np.arange(4, dtype=np.int32),
        seq_lens=lens,
        input_ids=np.array([LAST_TOKEN, 17, LAST_TOKEN], np.int32),
        positions=lens - 1,
        slot_mapping=(np.array([70, 71, 72], np.int32), np.array([80, 81, -1], np.int32)),
        page_deltas=(delta, PageDelta(rows[:0], rows[:0], rows[:0])),
        logits_rows=np.arange(3, dtype=np.int32),
        sample_rows=np.arange(3, dtype=np.int32),
    )


@pytest.mark.parametrize("rows", [3, 4, 8])
def test_packed_fields_arrive_padded(rows: int) -> None:
    layout = DecodeLayout(rows, 2)
    host = np.full(layout.num_bytes + 40, 0xAB, np.uint8)
    counts = layout.pack(_batch(), host, scratch_slot=6, max_pages=50)
    got = layout.device_fields(torch.from_numpy(host))
    pad = rows - 3
    assert counts == [2, 0]
    assert got["input_ids"].tolist() == [LAST_TOKEN, 17, LAST_TOKEN] + [0] * pad
    assert got["slots"].tolist() == [5, 0, 3] + [6] * pad
    assert got["positions"].tolist() == [6, 32, 15] + [0] * pad
    assert got["sample_positions"].tolist() == [7, 33, 16] + [0] * pad
    assert got["seq_lens"].tolist() == [7, 33, 16] + [0] * pad
    assert got["slot_mapping_0"].tolist() == [70, 71, 72] + [-1] * pad
    assert got["slot_mapping_1"].tolist() == [80, 81, -1] + [-1] * pad
    assert got["delta_where_0"][:2].tolist() == [150, 151]
    assert got["delta_pages_0"][:2].tolist() == [100, 101]
    assert got["seq_lens"].dtype == torch.int32
    assert got["slots"].dtype == torch.int64
    assert (host[layout.num_bytes :] == 0xAB).all()


def test_deltas_that_do_not_fit_are_told() -> None:
    layout = DecodeLayout(4, 2)
    assert layout.fits_deltas(_batch(4).page_deltas)
    assert not layout.fits_deltas(_batch(5).page_deltas)


def test_only_steps_whose_rows_all_decode_and_sample_are_decode_steps() -> None:
    batch = _batch()
    assert is_decode(batch)
    batch.num_decode_rows = 2  # the third is the last token of a prompt
    assert not is_decode(batch)
    batch = _batch()
    batch.logits_rows = batch.logits_rows[:2]
    assert not is_decode(batch)
    assert not is_decode(idle_batch((1, 1, 5), 0, 1, Bucket()))
    assert is_decode(idle_batch((1, 1), 0, 1, Bucket(2, 2)))
