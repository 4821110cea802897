"""The Pallas kernel's numbers, in JAX's interpreter of TPUs, against the kit's dense computation.

The kit's attention scenarios run through the backend's own door, on torch's CPU device; the kernel
alone is interpreted, copies, semaphores and all. Writes the results to the file named first.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"

import jax.numpy as jnp
import numpy as np
import torch
from jax.experimental.pallas import tpu as pltpu
from torch import Tensor
from tupelo_tpu.attention import PallasAttention
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.pallas_attention import attend
from tupelo_tpu.pallas_shape import Shape
from tupelo_tpu.runner import XlaRunner
from tupelo_tpu.sampler import XlaSampler

from tupelo.backend import Backend, Capabilities
from tupelo.conformance.case import Status, run_case
from tupelo.conformance.levels.attention import attention_cases
from tupelo.conformance.target import Target

CASES = (
    "attention/mixed/page_16",
    "attention/geometry/heads_8_1/dim_128",
    "attention/dtype/bfloat16_kv_bfloat16",
    "attention/shared_in_the_same_step",
    "attention/soft_cap/window",
    "attention/sinks/window",
)


def main() -> int:
    """0 if every scenario passes and the kernel ran in each."""
    calls: list[Shape] = []
    backend = Backend(
        name="interpreted",
        device="cpu",
        capabilities=Capabilities(
            dtypes=("float32", "bfloat16"),
            page_sizes=(16,),
            head_dims=(128,),
            sinks=True,
            static_shapes=True,
            functional_kv=True,
            same_step_sharing=True,
        ),
        attention=partial(PallasAttention, partial(_interpreted, calls)),
        kv_pool=XlaKVPool,
        sampler=XlaSampler,
        runner=XlaRunner,
    )
    wanted = [case for case in attention_cases(Target(backend)) if case.id in CASES]
    assert len(wanted) == len(CASES), [case.id for case in wanted]
    results = []
    for case in wanted:
        before, began = len(calls), time.perf_counter()
        result = run_case(case)
        passed = result.status is Status.PASSED and len(calls) > before
        entry = {"id": case.id, "passed": passed, "message": result.message}
        entry |= {"calls": len(calls) - before, "seconds": round(time.perf_counter() - began, 1)}
        results.append(entry)
        print(json.dumps(entry), flush=True)
    Path(sys.argv[1]).write_text(json.dumps(results))
    return 0 if all(r["passed"] for r in results) else 1


def _interpreted(calls: list[Shape], shape: Shape, args: Sequence[Tensor]) -> Tensor:
    calls.append(shape)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()):
        out = attend(shape, *(_to_jax(a) for a in args))
    numbers = torch.from_numpy(np.array(out.astype(jnp.float32)))
    return numbers.to(args[5].dtype)


def _to_jax(tensor: Tensor) -> Any:
    if tensor.dtype == torch.bfloat16:
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(tensor.numpy())


if __name__ == "__main__":
    raise SystemExit(main())
