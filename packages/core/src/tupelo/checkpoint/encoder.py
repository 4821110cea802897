"""How an encoder is put together, and what its tensors are called."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderLayout:
    """An encoder beyond its sizes. Names are Hugging Face's without ``.weight`` and without the
    prefix that they have below a head; those of a layer stand below ``layers.N``.

    Attributes:
        prefix: of all names where the checkpoint was saved with a head.
        positions: the table of learned positions; "" means that q and k are rotated.
        first_position: the row of that table that belongs to position 0.
        segments: the table of segments; "" for none. num_segments: its rows.
        qkv: the names of q, k and v, or the one of all three.
        attention_norm, mlp_norm: before the block with ``norms_first``, else after its output has
            joined the stream.
        norms_first: so, except that the first layer has no ``attention_norm``.
        final_norm: after the last layer; "" for none.
        gated: ``up`` has twice as many rows, the second half of which multiplies.
        norm_bias: whether norms have biases.
    """

    prefix: str
    words: str
    positions: str = ""
    first_position: int = 0
    segments: str = ""
    num_segments: int = 0
    embedding_norm: str
    layers: str
    qkv: tuple[str, ...]
    out: str
    attention_norm: str
    up: str
    down: str
    mlp_norm: str
    final_norm: str = ""
    norms_first: bool = False
    gated: bool = False
    norm_bias: bool = True
