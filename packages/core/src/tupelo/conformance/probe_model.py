"""A model small enough to compute by hand: what the kit runs a backend's runner with.

``x = 0``; for each layer, ``x = x + attention(q, k, v)`` with q, k, v drawn from tables by token id
and turned by position, and by the token's segment where there is one; ``logits = x @ head``.
``expected_hidden`` and ``expected_logits`` are the same on one whole sequence in float64 numpy,
over ``dense``.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import AttentionBackend, KVPool, Plan, StepInputs
from tupelo.conformance.dense import Doubles, attend
from tupelo.specs import AttentionSpec

SEGMENT_TURN = 0.8


class ProbeModel:
    """Seeded tables on a device; ``StepModel`` by its methods.

    Args:
        specs: attention specs, all of one geometry. layers: the spec of each layer.
        dtype: of the tables; the oracle takes the rounded values.
    """

    def __init__(
        self,
        specs: Sequence[AttentionSpec],
        layers: Sequence[int],
        vocab_size: int,
        dtype: str,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.specs, self.layers, self.vocab_size = tuple(specs), tuple(layers), vocab_size
        random = np.random.default_rng(seed)
        kind = specs[0]
        q_shape = (len(layers), vocab_size, kind.num_heads, kind.head_dim)
        kv_shape = (len(layers), vocab_size, kind.num_kv_heads, kind.head_dim)
        width = kind.num_heads * kind.head_dim
        self._q = _table(random, q_shape, 2.0, dtype)
        self._k = _table(random, kv_shape, 2.0, dtype)
        self._v = _table(random, kv_shape, 1.0, dtype)
        self._head = _table(random, (width, vocab_size), 3.0 * width**-0.5, dtype)
        self._on_device = tuple(t.to(device) for t in (self._q, self._k, self._v, self._head))

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        """(num_tokens, num_heads * head_dim)."""
        q_table, k_table, v_table, _ = self._on_device
        ids = inputs.input_ids
        angle = inputs.positions.float()
        if inputs.token_types is not None:
            angle = angle + SEGMENT_TURN * inputs.token_types.float()
        q_turn = (1.0 + 0.5 * torch.cos(0.7 * angle))[:, None, None]
        k_turn = (1.0 + 0.5 * torch.sin(0.9 * angle))[:, None, None]
        hidden = torch.zeros_like(q_table[0][ids])
        for layer, spec in enumerate(self.layers):
            q = (q_table[layer][ids] * q_turn).to(hidden.dtype) + hidden
            k = (k_table[layer][ids] * k_turn).to(hidden.dtype)
            hidden = hidden + attention.forward(q, k, v_table[layer][ids], spec, layer, kv, plan)
        return hidden.flatten(1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, vocab_size)."""
        return hidden @ self._on_device[3]

    def pool(self, features: Tensor, head: str) -> Tensor:
        """The features themselves, or with the head ``"logits"`` (n, vocab_size)."""
        return self.logits(features) if head == "logits" else features

    def expected_logits(self, ids: npt.ArrayLike) -> Doubles:
        """(length, vocab_size) for one whole sequence."""
        return self.head(self.expected_hidden(ids))

    def head(self, hidden: Doubles) -> Doubles:
        """(n, vocab_size) for (n, num_heads * head_dim)."""
        logits: Doubles = hidden @ self._head.double().numpy()
        return logits

    def expected_hidden(self, ids: npt.ArrayLike, types: npt.ArrayLike = 0) -> Doubles:
        """(length, num_heads * head_dim) for one whole sequence; ``types``: segments of tokens."""
        tokens = np.asarray(ids, np.int64)
        angle = np.arange(len(tokens)) + SEGMENT_TURN * np.asarray(types, np.float64)
        q_turn = (1.0 + 0.5 * np.cos(0.7 * angle))[:, None, None]
        k_turn = (1.0 + 0.5 * np.sin(0.9 * angle))[:, None, None]
        q_table, k_table, v_table = (t.double().numpy() for t in (self._q, self._k, self._v))
        hidden = np.zeros_like(q_table[0][tokens])
        for layer, spec in enumerate(self.layers):
            kind = self.specs[spec]
            hidden = hidden + attend(
                q_table[layer][tokens] * q_turn + hidden,
                k_table[layer][tokens] * k_turn,
                v_table[layer][tokens],
                scale=kind.scale,
                window=kind.window,
                soft_cap=kind.soft_cap,
            )
        flat: Doubles = hidden.reshape(len(tokens), -1)
        return flat


def _table(random: np.random.Generator, shape: tuple[int, ...], size: float, dtype: str) -> Tensor:
    numbers = random.standard_normal(shape, np.float32) * np.float32(size)
    return torch.from_numpy(numbers).to(getattr(torch, dtype))
