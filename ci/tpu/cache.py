"""A second start finds every program of the first in XLA's cache on disk.

    python ci/tpu/cache.py REPORT.json

Two processes start the same engine, one after the other, over one empty folder. The second writes
nothing into it and misses nothing: keys do not depend on the process, so that nothing is compiled
twice. On a TPU it compiles nothing at all; XLA's CPU device cannot read its programs back ("not
supported"), finds them and compiles them anew.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COUNTS = ("CompileTime", "PersistentCacheLoad", "PersistentCacheMiss")


def start(folder: str) -> dict[str, Any]:
    """Start an engine with the cache in ``folder``; what XLA counted until it had replied."""
    import torch_xla.runtime
    import tupelo_tpu
    from torch_xla.debug import metrics

    from tupelo.backend import Backend
    from tupelo.config import EngineConfig
    from tupelo.conformance.levels.engine import llama
    from tupelo.engine import Engine

    torch_xla.runtime.initialize_cache(folder)
    backend = tupelo_tpu.backend()
    assert isinstance(backend, Backend), backend
    config = EngineConfig(
        dtype="float32",
        page_size=16,
        max_total_tokens=256,
        max_running_requests=2,
        chunked_prefill_size=16,
        seed=7,
    )
    began = time.perf_counter()
    with Engine(config, backend=backend, source=llama(16)) as engine:
        ready_s = round(time.perf_counter() - began, 1)
        (reply,) = engine.generate(input_ids=[[3, 1, 4]], sampling_params={"max_new_tokens": 4})
    found = {**dict.fromkeys(COUNTS, 0)}
    for name in COUNTS:
        if name in metrics.metric_names():
            found[name] = metrics.metric_data(name)[0]
        elif name in metrics.counter_names():
            found[name] = metrics.counter_value(name)
    return {**found, "ready_s": ready_s, "hardware": backend.hardware, "ids": reply["output_ids"]}


def main() -> int:
    """Start twice; 0 if the second start found everything."""
    if sys.argv[1] == "--start":
        print(json.dumps(start(sys.argv[2])))
        return 0
    starts, files = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            command = [sys.executable, __file__, "--start", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            starts.append(json.loads(done.stdout.splitlines()[-1]))
            files.append(sum(path.is_file() for path in Path(folder).rglob("*")))
            print(starts[-1], f"{files[-1]} files", flush=True)
    first, second = starts
    passed = (
        first["PersistentCacheMiss"] > 0
        and second["PersistentCacheMiss"] == 0
        and second["PersistentCacheLoad"] >= files[0] == files[1]
        and second["ids"] == first["ids"]
        and (second["CompileTime"] == 0 or not second["hardware"])
    )
    result = {"starts": starts, "files": files, "passed": passed}
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1), "utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
