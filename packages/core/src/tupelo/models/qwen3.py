"""Qwen3: q and k are normalised per head before the rope, and q, k and v have no bias.

Source: Yang et al., "Qwen3 Technical Report", 2025.
"""

from tupelo.models.decoder import Decoder


class Qwen3(Decoder):
    """The plain decoder; its configuration sets ``qk_norm``."""
