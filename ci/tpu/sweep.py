"""Two hundred requests of every kind over torch-xla: after warming up, XLA compiles nothing more.

Writes to the file named by the first argument what was asked, compiled, and left to the host.
"""

import json
import sys
import time
from pathlib import Path

import tupelo_tpu
from torch_xla.debug import metrics

from tupelo.backend import Backend
from tupelo.config import EngineConfig
from tupelo.conformance.levels.engine import llama
from tupelo.conformance.sweep import KINDS, run_sweep
from tupelo.engine import Engine

LENGTHS, COUNTS = (1, 7, 16, 45, 90), (1, 3, 7, 9)


def main() -> int:
    """0 if nothing was compiled late and every op ran on the device."""
    backend = tupelo_tpu.backend()
    assert isinstance(backend, Backend), backend
    config = EngineConfig(
        dtype="float32",
        page_size=16,
        max_total_tokens=1024,
        max_running_requests=8,
        chunked_prefill_size=32,
        check_integrity=True,
        seed=7,
    )
    kinds = [kind for kind in KINDS if kind != "constrained"]
    began = time.perf_counter()
    with Engine(config, backend=backend, source=llama(16)) as engine:
        ready_s = time.perf_counter() - began
        compiled = backend.builds()
        late = run_sweep(engine, LENGTHS, COUNTS, new_tokens=4, kinds=kinds)
        requests = len(kinds) * sum(COUNTS)
    fallbacks = [name for name in metrics.counter_names() if name.startswith("aten::")]
    result = {
        "requests": requests,
        "compiled_when_ready": compiled,
        "compiled_late": late,
        "ready_s": round(ready_s, 1),
        "left_to_the_host": fallbacks,
        "passed": late == 0 and requests >= 200,
    }
    Path(sys.argv[1]).write_text(json.dumps(result))
    print(json.dumps(result), flush=True)
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
