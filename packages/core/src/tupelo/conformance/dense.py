"""Attention by its definition: dense, unpaged, one row at a time, in float64 numpy.

The oracle of level 2. It shares no code with any attention of core, and knows of no page, plan,
batch or padding.
"""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def attend(
    q: Doubles,
    k: Doubles,
    v: Doubles,
    *,
    scale: float,
    window: int | None = None,
    chunked: bool = False,
    soft_cap: float | None = None,
    causal: bool = True,
    sinks: Doubles | None = None,
) -> Doubles:
    """Attention of one sequence's last tokens over the whole of it.

    ``out = softmax(scale * q k^T [soft-capped] [masked]) v``. Source: Vaswani et al., 2017.

    Args:
        q: (num_new, num_heads, head_dim), of the last ``num_new`` tokens.
        k, v: (length, num_kv_heads, head_dim), of all tokens, the new ones last; v may be of
            another width.
        window: a query at p sees keys in ``(p - window, p]``, or in ``(p - window, p + window)``.
        chunked: and of these only what shares its quotient by ``window``.
        causal: whether a query sees none of the keys after it.
        sinks: (num_heads,) a logit of each head without a value.

    Returns:
        (num_new, num_heads, width of v).
    """
    num_new, num_heads, _ = q.shape
    length, num_kv_heads, _ = k.shape
    query_at = np.arange(length - num_new, length)[:, None]
    key_at = np.arange(length)[None, :]
    visible = (key_at <= query_at) | (not causal)
    if window is not None:
        visible &= abs(query_at - key_at) < window
        if chunked:
            visible &= query_at // window == key_at // window
    out = np.empty((num_new, num_heads, v.shape[2]))
    for head in range(num_heads):
        kv_head = head // (num_heads // num_kv_heads)
        scores = scale * (q[:, head] @ k[:, kv_head].T)
        if soft_cap is not None:
            scores = soft_cap * np.tanh(scores / soft_cap)
        scores = np.where(visible, scores, -np.inf)
        sink = -np.inf if sinks is None else sinks[head]
        top = np.maximum(scores.max(axis=1, keepdims=True), sink)
        weights = np.exp(scores - top)
        total = weights.sum(axis=1, keepdims=True) + np.exp(sink - top)
        out[:, head] = (weights / total) @ v[:, kv_head]
    return out
