"""Llama 2 and 3, SmolLM2, and Mistral, whose window is in its configuration.

Source: Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023.
"""

from tupelo.models.decoder import Decoder


class Llama(Decoder):
    """The plain decoder: biases, windows and rope scaling are as the configuration says."""


class Mistral(Llama):
    """Llama with a sliding window in every layer, or none."""
