"""The closed set of sizes, and a step as one packed array."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tupelo_tpu.buckets import MORE_CHANGES, Buckets, at_least, excess, ladder, step_layout

from tupelo.backend.packing import StepLayout
from tupelo.batch import Batch, Bucket, PageDelta


def test_every_step_has_a_bucket_of_the_closed_set() -> None:
    buckets = Buckets.of(num_slots=20, max_tokens=100)
    closed = set(buckets.all())
    for rows in range(1, 21):
        for tokens in {rows, rows + 1, 57, 100, 100 + rows}:
            if tokens >= rows:
                bucket = buckets.bucket(tokens, rows)
                assert bucket in closed
                assert bucket.tokens >= tokens
                assert bucket.rows >= rows


def test_the_set_is_small_and_decode_steps_are_not_padded_to_every_slot() -> None:
    buckets = Buckets.of(num_slots=256, max_tokens=4096)
    assert len(buckets.all()) <= 20
    assert buckets.bucket(3, 3) == Bucket(8, 8)
    assert buckets.bucket(200, 200) == Bucket(256, 256)
    assert buckets.bucket(300, 2) == Bucket(512, 256)


def test_ladders_double_until_they_hold_what_is_asked_for() -> None:
    assert ladder(8, 33) == (8, 16, 32, 64)
    assert at_least((8, 16), 9) == 16
    assert at_least((8, 16), 100) == 128


@pytest.fixture
def batch() -> Batch:
    """A decode row and a prompt of three tokens, over two page groups."""
    empty = np.empty(0, np.int32)
    many = np.arange(600, dtype=np.int32)
    return Batch(
        step=1,
        slots=np.array([4, 2], np.int32),
        num_decode_rows=1,
        cu_seqlens_q=np.array([0, 1, 4], np.int32),
        seq_lens=np.array([9, 3], np.int32),
        input_ids=np.array([-1, 5, 6, 7], np.int32),
        positions=np.array([8, 0, 1, 2], np.int32),
        slot_mapping=(np.array([40, 16, 17, 18], np.int32), np.array([3, 0, 1, 2], np.int32)),
        page_deltas=(
            PageDelta(many * 0 + 2, many % 50, many + 1),
            PageDelta(empty, empty, empty),
        ),
        logits_rows=np.array([0, 3], np.int32),
        sample_rows=np.array([0, 1], np.int32),
        bucket=Bucket(16, 8),
    )


def _layout(batch: Batch) -> StepLayout:
    return step_layout(batch, page_size=4, scratch_slot=6, max_pages=50)


def test_packing_pads_and_splitting_finds_it_again(batch: Batch) -> None:
    layout = _layout(batch)
    fields = layout.split(torch.from_numpy(layout.pack(batch)))
    assert fields["input_ids"].tolist() == [-1, 5, 6, 7] + [0] * 12
    assert fields["token_rows"].tolist() == [0, 1, 1, 1] + [7] * 12
    assert fields["slots"].tolist() == [4, 2] + [6] * 6
    assert fields["cu_seqlens_q"].tolist() == [0, 1] + [4] * 7
    assert fields["slot_mapping_0"].tolist() == [40, 16, 17, 18] + [-1] * 12
    assert fields["sample_slots"].tolist() == [4, 2] + [6] * 6
    assert fields["sample_positions"].tolist()[:2] == [9, 3]
    assert layout.changes == (12, 12)
    assert fields["delta_where_0"].tolist() == [2 * 50 + i for i in range(12)]
    assert fields["delta_where_1"].tolist() == [7 * 50 - 1] * 12, "padding is the scratch slot's"


def test_changes_that_do_not_fit_are_named_in_slices(batch: Batch) -> None:
    layout = _layout(batch)
    starts = excess(layout, batch)
    assert starts == [(0, 12), (0, 12 + MORE_CHANGES), (0, 12 + 2 * MORE_CHANGES)]
    seen = [layout.page_changes(batch.page_deltas[0], start, MORE_CHANGES) for _, start in starts]
    pages = np.concatenate([pages for _, pages in seen])
    assert pages[: 600 - 12].tolist() == list(range(13, 601))
    assert len({len(where) for where, _ in seen}) == 1, "every slice has one size"


def test_token_types_are_sent_only_where_there_are_some(batch: Batch) -> None:
    assert "token_types" not in _layout(batch).sizes()
    batch.token_types = np.array([0, 1, 1, 0], np.int32)
    typed = _layout(batch)
    fields = typed.split(torch.from_numpy(typed.pack(batch)))
    assert fields["token_types"].tolist() == [0, 1, 1, 0] + [0] * 12


def test_without_a_bucket_a_step_is_packed_as_it_is(batch: Batch) -> None:
    layout = StepLayout.of(replace(batch, bucket=Bucket()), scratch_slot=6, max_pages=50)
    fields = layout.split(torch.from_numpy(layout.pack(batch)))
    assert [len(fields[n]) for n in ("input_ids", "slots", "logits_rows")] == [4, 2, 2]
    assert len(fields["delta_where_0"]) == 600
    assert len(fields["delta_where_1"]) == 0
