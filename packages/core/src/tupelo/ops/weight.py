"""The weights of a linear layer, as ops see them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tupelo.errors import ContractError
from tupelo.specs import NO_QUANT, QuantScheme


@dataclass(slots=True)
class LinearWeight:
    """Weights of ``y = x @ weight.T + bias``, plain or quantised, and their packed forms.

    Attributes:
        out_features, in_features: sizes on this rank.
        tensors: as loaded. Plain: ``weight`` (out_features, in_features). Empty once packed and
            released.
        bias: (out_features,) or None.
        scheme: how ``tensors`` are stored.
    """

    out_features: int
    in_features: int
    tensors: dict[str, torch.Tensor]
    bias: torch.Tensor | None = None
    scheme: QuantScheme = NO_QUANT
    _packed: dict[Callable[..., Any], Any] = field(default_factory=dict, repr=False)
    _raw_in_use: bool = False

    @property
    def weight(self) -> torch.Tensor:
        """The plain weight, (out_features, in_features).

        Raises:
            ContractError: it was released because every bound kernel uses a packed form.
        """
        try:
            return self.tensors["weight"]
        except KeyError:
            raise ContractError("the plain weight was released after packing") from None

    def packed(self, pack: Callable[["LinearWeight"], Any] | None) -> Any:
        """The form that a kernel with this ``pack`` wants: the record itself where there is
        none."""
        if pack is None:
            self._raw_in_use = True
            return self
        if pack not in self._packed:
            self._packed[pack] = pack(self)
        return self._packed[pack]

    def release(self) -> None:
        """Drop the tensors as loaded if every kernel bound so far uses a packed form."""
        if self._packed and not self._raw_in_use:
            self.tensors = {}
