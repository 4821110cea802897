"""The sizes that the kit runs a backend's attention and runner with."""

from dataclasses import dataclass

from tupelo.specs import AttentionSpec, KVSpec


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a world.

    Attributes:
        windows: of each layer, None for full attention; each distinct window is a page group.
        value_dim: as in ``KVSpec``. chunked, sinks: as in ``AttentionSpec``.
        size: standard deviation of q, k and v; scores, and their errors, grow with its square.
    """

    dtype: str
    kv_dtype: str
    page_size: int
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    windows: tuple[int | None, ...] = (None, None)
    soft_cap: float | None = None
    value_dim: int | None = None
    chunked: bool = False
    sinks: bool = False
    size: float = 1.0

    def specs(self) -> tuple[list[int], list[AttentionSpec], list[KVSpec]]:
        """The page group of each layer, and for each group its attention and its storage."""
        groups = list(dict.fromkeys(self.windows))
        group_of = [groups.index(window) for window in self.windows]
        kinds = [
            AttentionSpec(
                group=group,
                num_heads=self.num_heads,
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                scale=self.head_dim**-0.5,
                value_dim=self.value_dim,
                window=window,
                chunked=self.chunked and window is not None,
                soft_cap=self.soft_cap,
                sinks=self.sinks,
            )
            for group, window in enumerate(groups)
        ]
        stored = [
            KVSpec(
                group=group,
                layers=tuple(layer for layer, g in enumerate(group_of) if g == group),
                num_kv_heads=self.num_kv_heads,
                head_dim=self.head_dim,
                dtype=self.kv_dtype,
                value_dim=self.value_dim,
                window=window,
            )
            for group, window in enumerate(groups)
        ]
        return group_of, kinds, stored
