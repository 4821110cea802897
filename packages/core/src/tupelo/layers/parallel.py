"""How a model is split over ranks (tensor parallelism), as layers see it.

Column-parallel products split their outputs, row-parallel ones their inputs and leave partial sums
that the group adds up. One rank is the case in which every share is the whole.
"""

from dataclasses import dataclass, field

from tupelo.backend.collectives import Collectives, TorchCollectives
from tupelo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Parallel:
    """This rank's place in the group that one model is split over.

    Attributes:
        collectives: the group; knows rank and world size.
    """

    collectives: Collectives = field(default_factory=TorchCollectives)

    @property
    def rank(self) -> int:
        """This rank."""
        return self.collectives.rank

    @property
    def world_size(self) -> int:
        """Ranks that the model is split over."""
        return self.collectives.world_size

    def share(self, total: int, what: str) -> slice:
        """This rank's part of ``total`` items.

        Raises:
            ConfigError: they do not divide; ``what`` names them.
        """
        if total % self.world_size:
            raise ConfigError(
                f"{total} {what} cannot be split over {self.world_size} ranks; "
                "use a number of ranks that divides them"
            )
        size = total // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def kv_heads(self, num_kv_heads: int) -> slice:
        """This rank's K/V heads: its share, or one that several ranks hold where there are fewer
        heads than ranks.

        Raises:
            ConfigError: neither number divides the other.
        """
        if num_kv_heads >= self.world_size:
            return self.share(num_kv_heads, "K/V heads")
        if self.world_size % num_kv_heads:
            raise ConfigError(
                f"{num_kv_heads} K/V heads cannot be shared by {self.world_size} ranks; "
                "use a number of ranks that they divide"
            )
        head = self.rank * num_kv_heads // self.world_size
        return slice(head, head + 1)


SINGLE = Parallel()
"""One rank, which communicates nothing."""
