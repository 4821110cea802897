"""Qwen2 and Qwen2.5: biases on q, k and v; the upper layers may be windowed.

Source: Yang et al., "Qwen2 Technical Report", 2024.
"""

from tupelo.models.decoder import Decoder


class Qwen2(Decoder):
    """The plain decoder; its configuration sets ``attention_bias`` but no output bias."""
