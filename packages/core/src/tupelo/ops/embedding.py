"""Rows of the embedding table."""

import torch.nn.functional as F
from torch import Tensor


def embedding(ids: Tensor, table: Tensor, scale: float) -> Tensor:
    """``table[ids] * scale``.

    Args:
        ids: (num_tokens,) integers in ``[0, vocab_size)``.
        table: (vocab_size, hidden_size).
        scale: 1.0 for none (Gemma: about sqrt(hidden_size)); rounded to the table's dtype first.

    Returns:
        (num_tokens, hidden_size), dtype of ``table``.
    """
    rows = F.embedding(ids, table)
    return rows if scale == 1.0 else rows * rows.new_tensor(scale)
