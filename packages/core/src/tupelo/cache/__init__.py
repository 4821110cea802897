"""The prefix cache: which pages hold which tokens, and who may use them. Imports no torch."""

from tupelo.cache.frontier import Frontier
from tupelo.cache.lease import Lease
from tupelo.cache.pages import ABSENT
from tupelo.cache.picture import Picture, PictureNode
from tupelo.cache.prefix_cache import CacheStats, GroupStats, PrefixCache
from tupelo.cache.radix import Namespace

__all__ = [
    "ABSENT",
    "CacheStats",
    "Frontier",
    "GroupStats",
    "Lease",
    "Namespace",
    "Picture",
    "PictureNode",
    "PrefixCache",
]
