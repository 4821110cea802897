"""The backend as the kit sees it where there is no NPU: its record, on the host's memory.

    export PYTHONPATH=ci/npu:.
    python -m tupelo.conformance --backend stood_in:backend

torch-npu's operators are computed by the tests' stand-ins, which follow their documentation under
torch-npu's own schemas, as fake_steps.py compares. Choosing, trying, planning, storing and routing
are the backend's; ACL graphs, HCCL and Triton are missing.
"""

from dataclasses import replace
from functools import partial
from unittest.mock import patch

import tupelo_npu
from tests.unit.npu import stand_ins
from tupelo_npu import record
from tupelo_npu.attention import NpuAttention
from tupelo_npu.kernels import npu_kernels
from tupelo_npu.options import Options

from tupelo.backend import Backend, EagerRunner, GraphGrade, TorchRuntime
from tupelo.ops.trial import Trials

stand_ins.install()


def backend() -> Backend:
    """The record of an NPU with 64 GiB, whose parts compute here."""
    options = Options(triton=False)
    with patch.object(tupelo_npu, "DEVICE", "cpu"):  # torch knows no npu without torch-npu
        made = record(options, 1, ("stand-ins of CANN's operators", 64 << 30))
    return replace(
        made,
        device="cpu",
        hardware="",
        capabilities=replace(
            made.capabilities,
            graph=GraphGrade.NONE,
            max_world_size=1,
            max_running=8,
            chunk_tokens=64,
        ),
        kernels=npu_kernels(options, Trials("cpu"))[0],
        attention=partial(NpuAttention, options),
        runner=EagerRunner,
        runtime=TorchRuntime,
        builds=lambda: 0,
    )
