"""The backend's record on a device that stands in for an Intel GPU, its libraries in torch: for the
conformance kit, and for what this folder runs in processes of their own.

    python -m tupelo.conformance --backend tests.unit.xpu.stand_in:backend
"""

from dataclasses import replace

import torch
import tupelo_xpu
from tests.unit.xpu import library
from tests.unit.xpu.device import DEVICE, PROPERTIES, open_xpu
from tupelo_xpu import vllm_calls
from tupelo_xpu.card import read_card
from tupelo_xpu.options import Options

from tupelo.backend import Backend


def enter() -> None:
    """Open the device and install the libraries."""
    open_xpu()
    library.install()
    vllm_calls.installed = lambda package: library.RELEASE


def backend(options: Options | None = None) -> Backend:
    """The record, as ``tupelo_xpu.backend`` makes it for a GPU."""
    if not hasattr(torch, DEVICE.partition(":")[0]):
        enter()
    record = tupelo_xpu.make_backend(options or Options(), read_card(PROPERTIES), DEVICE)
    # The host's memory is not its own, and no process group of torch's is for it.
    capabilities = replace(
        record.capabilities, memory_fraction=0.4, max_world_size=1, collective_library=""
    )
    return replace(record, capabilities=capabilities, hardware="")
