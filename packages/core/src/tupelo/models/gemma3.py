"""Gemma 3 text models: four norms a layer, windowed and full layers with ropes of their own.

Source: Gemma Team, "Gemma 3 Technical Report", 2025.
"""

from tupelo.layers import Norms, SandwichLayer
from tupelo.models.decoder import Decoder


class Gemma3(Decoder):
    """Blocks are normed on both sides, and a norm multiplies by ``1 + weight``.

    Windows, ropes, embedding scale, per-head norms and soft caps are as the configuration says.
    """

    layer_class = SandwichLayer
    norm_offset = 1.0

    def norms(self, prefix: str) -> Norms:
        size = self.config.hidden_size
        return Norms(
            mlp=self.norm(f"{prefix}.pre_feedforward_layernorm", size),
            attention_out=self.norm(f"{prefix}.post_attention_layernorm", size),
            mlp_out=self.norm(f"{prefix}.post_feedforward_layernorm", size),
        )
