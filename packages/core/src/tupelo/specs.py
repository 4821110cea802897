"""Frozen descriptions of what a model needs from a backend: KV storage, attention, quantisation.

Plain data shared by both wings; imports neither torch nor anything of Tupelo but ``errors``.
Data types are named by strings (``"float32"``, ``"bfloat16"``, ``"float16"``), the names that
torch uses.
"""

from dataclasses import dataclass, field

from tupelo.errors import ConfigError

DTYPE_BYTES: dict[str, int] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
}


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element of ``dtype``.

    Raises:
        ConfigError: the name is not one of ``DTYPE_BYTES``.
    """
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class KVSpec:
    """K/V storage of one page group: layers whose pages are handed out and freed together.

    Attributes:
        group: index of the page group; 0 is the full-attention group where there is one.
        layers: model layer indices that store K/V in this group, ascending.
        num_kv_heads: K/V heads of each of those layers (on this rank).
        head_dim: elements of one head.
        dtype: storage type of K and V.
        value_dim: None: values are stored apart, ``head_dim`` wide. Otherwise nothing but keys is
            stored, and the first ``value_dim`` elements of a key are its value (compressed K/V of
            latent attention).
        window: number of most recent tokens that the group's layers can attend to, or None for all.
            A token at position p is visible from q when ``q - window < p <= q``.
    """

    group: int
    layers: tuple[int, ...]
    num_kv_heads: int
    head_dim: int
    dtype: str
    value_dim: int | None = None
    window: int | None = None

    def bytes_per_token(self) -> int:
        """Bytes that one token takes over all layers of the group (K and V)."""
        stored = 2 if self.value_dim is None else 1
        per_layer = stored * self.num_kv_heads * self.head_dim * dtype_bytes(self.dtype)
        return per_layer * len(self.layers)


NO_GROUP = -1
"""The page group of attention that stores nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """One kind of attention layer of a model; layers of equal spec share one plan a step.

    Attributes:
        group: the page group (``KVSpec.group``) that the layer reads and writes.
        num_heads, num_kv_heads, head_dim: on this rank; ``num_heads % num_kv_heads == 0`` and query
            head ``h`` reads K/V head ``h // (num_heads // num_kv_heads)``.
        scale: factor on ``q @ k``.
        value_dim, window: as in ``KVSpec``.
        chunked: positions are cut into spans of ``window``, and a token sees only those of its own
            span: of a window before it, what lies behind the last multiple of ``window``.
        soft_cap: logits become ``soft_cap * tanh(logits / soft_cap)``; None for none.
        causal: False in encoders: a token sees all tokens of its row in this step, before and after
            it, or with a window those less than ``window`` away. Nothing is stored for such a
            layer, and ``group`` is ``NO_GROUP``.
        sinks: each head has one more logit, its layer's, that takes part in the softmax and has no
            value.
    """

    group: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    value_dim: int | None = None
    window: int | None = None
    chunked: bool = False
    soft_cap: float | None = None
    causal: bool = True
    sinks: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantScheme:
    """How the weights of a linear layer are stored.

    Attributes:
        name: ``"none"`` for plain weights in the compute dtype.
        bits, group_size: of the stored weights; group_size None means one scale a row.
    """

    name: str = "none"
    bits: int = 16
    group_size: int | None = None


NO_QUANT = QuantScheme()


@dataclass(frozen=True, kw_only=True, slots=True)
class PageGroup:
    """The host's view of a page group: what the cache needs to know, without heads or dtypes.

    Attributes:
        num_pages: pages that exist; page ids are ``0 … num_pages - 1``.
        window: as in ``KVSpec``.
    """

    num_pages: int
    window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes that a model will take, computed from headers alone.

    Attributes:
        weight_bytes: resident weights after packing.
        kv_bytes: the K/V pool.
        workspace_bytes: activations, logits, slot state and staging.
        kv_tokens: tokens that the pool of group 0 holds.
        bytes_per_token: K/V bytes of one token over all groups.
        notes: where the figures come from, for people.
    """

    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int
    kv_tokens: int
    bytes_per_token: int
    notes: tuple[str, ...] = field(default=())

    @property
    def total_bytes(self) -> int:
        """All bytes together."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes
