#!/usr/bin/env python3
"""Whether host and device work at the same time: step time on a simulated device, one and two
steps in flight.

  python benchmarks/overlap.py [--steps 60]

The device is the conformance kit's hostile fake: it computes a tiny model on the CPU (that is host
time), then takes a given time of its own; results arrive 20 ms later still. The host's own time is
measured first, with a device that takes none. With two steps in flight a step should take the
longer of the two.
"""

import argparse
import itertools
import statistics
from typing import Any

from tupelo import Engine
from tupelo.checkpoint import parse_hf_config
from tupelo.config import EngineConfig
from tupelo.conformance.fakes.hostile import HostileFake
from tupelo.engine.build import Source

GATE = 1.1
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def step_ms(device_s: float, latency_s: float, depth: int, steps: int) -> float:
    """Median milliseconds from one launch to the next, four requests decoding."""
    fake = HostileFake(device_s=device_s, latency_s=latency_s)
    source = Source(config=parse_hf_config(SHAPE), checkpoint=None, path="tiny", tokenizer_path="")
    config = EngineConfig(
        dtype="float32", max_total_tokens=1024, max_running_requests=4, pipeline_depth=depth
    )
    with Engine(config, backend=fake.backend, source=source) as engine:
        engine.generate(
            input_ids=[[i, 1, 2, 3] for i in range(4)],
            sampling_params={"temperature": 0, "max_new_tokens": steps, "ignore_eos": True},
        )
    launches = sorted(fake.clock.times("launched").values())[4:]
    gaps = [(b - a) * 1e3 for a, b in itertools.pairwise(launches)]
    return statistics.median(gaps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    host_ms = step_ms(0.0, 0.0, 1, steps)
    print(f"host alone: {host_ms:.2f} ms a step")
    for device_ms in (20.0, 40.0, 80.0):
        for depth in (1, 2):
            took = step_ms(device_ms / 1e3, 0.02, depth, steps)
            ratio = took / max(device_ms, host_ms)
            gate = f", gate {GATE}: {'met' if ratio <= GATE else 'MISSED'}" if depth == 2 else ""
            print(
                f"device {device_ms:3.0f} ms, depth {depth}: {took:6.2f} ms a step, "
                f"{ratio:.2f} x the longer of both{gate}"
            )


if __name__ == "__main__":
    main()
