#!/usr/bin/env python3
"""Online traffic through the real scheduler and loop, on a device that is a formula.

  python benchmarks/schedule_sim.py [--launch-ms 23] [--max-step-ms 30] [--rates 8,24] [--burst]

For choosing how prompts are cut and when steps are launched; the figures say little about a real
device, their differences more. A step's time is that of products on an H100 with the 8B shape, by
its tokens, and of attention, by the K/V read. Launching a step with prompts keeps the host busy for
``--launch-ms``, and the device no less.
"""

import argparse
from typing import Any

import gpu_workloads as workloads
import numpy as np
import numpy.typing as npt
from online import Trace, figures

from tupelo.backend import Ticket
from tupelo.batch import Batch, Bucket, StepResult
from tupelo.engine.executor import Executor
from tupelo.engine.loop import EngineLoop
from tupelo.request import Request, SamplingParams
from tupelo.scheduler import Scheduler, SchedulerConfig
from tupelo.specs import PageGroup

TOKENS = (1, 16, 64, 128, 256, 512, 768, 1024, 2048, 8192, 16384)
PRODUCTS_MS = (5.3, 5.75, 5.95, 6.46, 7.6, 12.4, 18.0, 23.5, 46.0, 182.0, 364.0)
READ_MS, TOKEN_MS, PROMPT_MS, FIXED_MS = 50e-6, 4e-4, 1.2e-3, 0.25
"""Of attention a K/V token read by a decode row, of other kernels a token, of prompts' attention a
token, and of what each step has besides."""

DECODE_LAUNCH_S, FIRST_KERNEL_S = 0.001, 0.0006
HAND_OUT_S, PAUSE_S = 1e-4, 5e-4


def step_s(batch: Batch) -> float:
    """Seconds of a step on the device."""
    rows, tokens = batch.num_decode_rows, batch.num_tokens
    read = float(batch.seq_lens[:rows].sum())
    products = float(np.interp(tokens, TOKENS, PRODUCTS_MS))
    beside = READ_MS * read + TOKEN_MS * tokens + PROMPT_MS * (tokens - rows) + FIXED_MS
    return (products + beside) / 1e3


class Device(Executor):
    """Steps one after another; its clock moves when the host launches, waits or pauses."""

    def __init__(self, launch_s: float) -> None:
        self._launch_s = launch_s
        self.now_s = self.free_s = self.idle_s = 0.0

    def clock(self) -> float:
        """For the loop."""
        return self.now_s

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return Bucket()

    def forward(self, batch: Batch) -> Any:
        launch_s = self._launch_s if batch.num_tokens > batch.num_decode_rows else DECODE_LAUNCH_S
        begin = max(self.free_s, self.now_s + FIRST_KERNEL_S)
        self.idle_s += begin - self.free_s if self.free_s else 0.0
        self.now_s += launch_s
        self.free_s = max(begin + step_s(batch), self.now_s)

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        return _Result(self, StepResult(token_ids=np.full(batch.num_samples, 7, np.int32)))


class _Result(Ticket[StepResult]):
    def __init__(self, device: Device, value: StepResult) -> None:
        self._device, self._value, self._at_s = device, value, device.free_s

    def ready(self) -> bool:
        return self._device.now_s >= self._at_s

    def wait(self) -> StepResult:
        self._device.now_s = max(self._device.now_s, self._at_s)
        return self._value


def simulate(
    requests: list[tuple[list[int], int]], arrivals: list[float], launch_s: float, bound_s: float
) -> tuple[list[Trace], float]:
    """Each request's trace, and the share of the time in which the device idled between steps."""
    device = Device(launch_s)
    config = SchedulerConfig(
        groups=(PageGroup(num_pages=27000),),
        page_size=16,
        context_length=8192,
        max_running=512,
        max_queued=len(requests),
        chunk_tokens=8192,
        same_step_sharing=True,
        step_s=bound_s,
    )
    loop = EngineLoop(Scheduler(config), device, workloads.VOCAB, depth=2, clock=device.clock)
    traces = [Trace(sent_s=at_s) for at_s in arrivals]
    sent = 0

    def send() -> None:
        nonlocal sent
        while sent < len(requests) and arrivals[sent] <= device.now_s:
            ids, wanted = requests[sent]
            params = SamplingParams(max_new_tokens=wanted, ignore_eos=True, temperature=0.0)
            loop.submit(Request(rid=str(sent), input_ids=tuple(ids), params=params))
            sent += 1

    while sent < len(requests) or loop.has_work():
        if not loop.has_work():
            device.now_s = max(device.now_s, arrivals[sent])
        send()
        while (patience := loop.patience_s()) > 0:
            device.now_s += min(patience, PAUSE_S)
            send()
        outputs = loop.step()
        device.now_s += HAND_OUT_S
        for output in outputs:
            trace = traces[int(output.rid)]
            trace.chunks_s.append(device.now_s)
            trace.num_tokens += len(output.token_ids)
    return traces, device.idle_s / device.now_s


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--launch-ms", type=float, default=23.0)
    parser.add_argument("--max-step-ms", type=float, default=30.0, help="0: no bound")
    parser.add_argument("--rates", default="8,24")
    parser.add_argument("--burst", action="store_true", help="also W1, all at once")
    args = parser.parse_args()
    work = {f"W6 {rate}/s": workloads.w6(float(rate)) for rate in args.rates.split(",") if rate}
    if args.burst:
        requests = workloads.w1()
        work["W1"] = (requests, [0.0] * len(requests))
    for name, (requests, arrivals) in work.items():
        traces, idle = simulate(requests, arrivals, args.launch_ms / 1e3, args.max_step_ms / 1e3)
        found = figures([traces])
        print(
            f"{name}: TTFT p50 {found['ttft_p50_ms']:.1f}, p99 {found['ttft_p99_ms']:.1f} ms; "
            f"ITL p50 {found['itl_p50_ms']:.2f}, p99 {found['itl_p99_ms']:.1f} ms; "
            f"{found['output_tokens_per_s']:.0f} output tokens/s; idle {100 * idle:.1f} %"
        )


if __name__ == "__main__":
    main()
