"""A step's inputs, for tests of plans."""

from collections.abc import Sequence

import numpy as np
import torch

from tupelo.backend import StepInputs
from tupelo.batch import Batch, Bucket


def step(counts: Sequence[int], bucket: Bucket, table_width: int = 256) -> StepInputs:
    """Rows of some new tokens each, padded to a bucket, in slots and pages of no meaning."""
    total, rows = max(sum(counts), bucket.tokens), max(len(counts), bucket.rows)
    cu = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    host = Batch(
        step=1,
        slots=np.arange(len(counts), dtype=np.int32),
        num_decode_rows=sum(count == 1 for count in counts),
        cu_seqlens_q=cu,
        seq_lens=np.full(len(counts), 300, np.int32),
        input_ids=np.zeros(sum(counts), np.int32),
        positions=np.zeros(sum(counts), np.int32),
        slot_mapping=(np.zeros(sum(counts), np.int32),),
        page_deltas=(),
        logits_rows=np.empty(0, np.int32),
        sample_rows=np.empty(0, np.int32),
        bucket=bucket,
    )
    longs = torch.zeros(total, dtype=torch.int64)
    padded = np.pad(cu, (0, rows - len(counts)), mode="edge")
    return StepInputs(
        host=host,
        input_ids=longs,
        positions=longs,
        cu_seqlens_q=torch.from_numpy(padded),
        seq_lens=torch.full((rows,), 300, dtype=torch.int32),
        slots=torch.zeros(rows, dtype=torch.int64),
        token_rows=longs,
        slot_mapping=(longs,),
        page_tables=(torch.zeros((rows + 1, table_width), dtype=torch.int32),),
    )
