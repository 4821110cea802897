"""Tupelo's backend for TPUs, over XLA through torch-xla, or through TorchTPU where it is named.

Importing this module loads no vendor library; asking for the backend does, where it can be used.
"""

import logging
from functools import partial

from tupelo.backend import (
    Backend,
    Capabilities,
    GraphGrade,
    TorchCollectives,
    TorchRuntime,
    Unavailable,
)
from tupelo.errors import BackendUnavailable
from tupelo_tpu.attention import attention_note, make_attention
from tupelo_tpu.collectives import XlaCollectives
from tupelo_tpu.kernels import KERNELS
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.options import read_options
from tupelo_tpu.programs import num_compiled, num_graphs
from tupelo_tpu.runner import XlaRunner
from tupelo_tpu.runtime import XlaRuntime
from tupelo_tpu.sampler import XlaSampler
from tupelo_tpu.vendor import device_note, open_device, versions, why_not

__all__ = ["backend"]

logger = logging.getLogger(__name__)

DEVICES = {"torch-xla": "xla:0", "torch-tpu": "tpu:0"}
"""By route."""

HOST_SIZES, TPU_SIZES = (16, 128), (64, 512)
"""Requests that run at once, and prompt tokens of a step."""


def backend() -> Backend | Unavailable:
    """The backend of this machine's first TPU chip, or of XLA's CPU device where that is named.

    Raises:
        ConfigError: an environment variable of this backend has a value that it cannot have.
    """
    options = read_options()
    reason = why_not(options)
    if reason:
        return Unavailable(reason)
    try:
        kind = open_device(options, DEVICES[options.route])
    except BackendUnavailable as error:
        return Unavailable(str(error))
    logger.info("%s", device_note(options, kind))
    on_host, is_xla = kind == "cpu", options.route == "torch-xla"
    max_running, chunk_tokens = HOST_SIZES if on_host else TPU_SIZES
    return Backend(
        name="tpu",
        device=DEVICES[options.route],
        hardware="" if on_host else kind,
        capabilities=Capabilities(
            priority=-1 if on_host else 100,
            dtypes=("bfloat16", "float32"),
            page_sizes=(16, 32),
            sinks=True,
            latent_kv=True,
            graph=GraphGrade.COMPILED,
            static_shapes=True,
            functional_kv=True,
            same_step_sharing=True,
            # Without donation K/V are there twice during a step.
            memory_fraction=0.88 if is_xla and not on_host else 0.4,
            pipeline_depth=2,
            max_running=max_running,
            chunk_tokens=chunk_tokens,
        ),
        contract=1,
        kernels=KERNELS,
        attention=partial(make_attention, options, kind),
        kv_pool=XlaKVPool,
        sampler=XlaSampler,
        runner=XlaRunner,
        collectives=XlaCollectives if is_xla else TorchCollectives,
        runtime=XlaRuntime if is_xla else TorchRuntime,
        builds=num_compiled if is_xla else num_graphs,
        versions=versions(),
        notes=(device_note(options, kind), attention_note(options, kind)),
    )
