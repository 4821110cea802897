"""Whole steps of decoders on tensors of ``npu:0`` that have no storage, through the real torch-npu
over link stubs: ``python fake_steps.py REPORT.json``.

Every operator is torch-npu's own: its schema binds the call, its Meta function tells the shapes.
An engine schedules, plans, stores, routes, samples and replays as ever, over this backend's parts;
what it reads of the device are zeros. What is compared is shapes, types and devices, nothing else.
"""

import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch_npu
import tupelo_npu.fused_attention
from tests.unit.graphs.fakes import FakeCapture
from tests.unit.npu import stand_ins
from tests.unit.npu.test_steps import MODELS, PROMPTS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from tupelo_npu import calls, npu_ops
from tupelo_npu.attention import NpuAttention
from tupelo_npu.fused_attention import PAGE_SIZES
from tupelo_npu.kernels import npu_kernels
from tupelo_npu.options import Options

from tupelo.backend import Backend, Capabilities, GraphGrade, RunnerParts, Runtime, Ticket
from tupelo.backend.graphs.runner import GraphForward, GraphRunner
from tupelo.backend.runtime import Done, Event
from tupelo.batch import Batch
from tupelo.checkpoint import parse_hf_config
from tupelo.engine import Engine
from tupelo.engine.build import Source

DEVICE = torch.device("npu:0")
GREEDY = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
RUNS = (
    *(("dense", "fused", "reshape_and_cache"), ("moe", "fused", "reshape_and_cache")),
    *(("windowed", "fused", "scatter_kv"), ("moe", "rows", "scatter_kv")),
)
"""Model, attention, and what stores K/V: nothing can be tried, so each is named."""


class FakeRuntime(Runtime):
    """A device without storage: what comes from it are zeros. Steps run in a thread of the
    engine's, in the modes of this context."""

    def __init__(self, modes: Callable[[], AbstractContextManager[Any]], device: str) -> None:
        self.device = torch.device(device)
        self._modes = modes

    def memory(self) -> tuple[int, int]:
        return 60 << 30, 64 << 30

    def synchronize(self) -> None:
        return

    def stream(self) -> AbstractContextManager[Any]:
        return self._modes()

    def event(self) -> Event:
        quiet = {"record": lambda: None, "query": lambda: True, "synchronize": lambda: None}
        event: Any = SimpleNamespace(**quiet)
        return event

    def host_array(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return np.zeros(shape, dtype)

    def to_device(self, array: npt.NDArray[Any]) -> Tensor:
        with self._modes():
            return torch.from_numpy(array).to(self.device)

    def to_host(self, tensors: Sequence[Tensor]) -> Ticket[list[npt.NDArray[Any]]]:
        assert all(tensor.device == self.device for tensor in tensors)
        kinds = [torch.empty(0, dtype=t.dtype, device="cpu") for t in tensors]
        names = [str(kind.dtype).removeprefix("torch.") for kind in kinds]
        return Done([np.zeros(t.shape, n) for t, n in zip(tensors, names, strict=True)])


class Watch(TorchDispatchMode):
    """Counts torch-npu's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace in ("npu", "atb"):
            self.called[func._schema.name.partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


class Checked(GraphRunner):
    """Checks what each step leaves on the device."""

    steps: Counter[str]

    def forward(self, batch: Batch) -> Any:
        out = super().forward(batch)
        kind = "replayed" if isinstance(out, GraphForward) else "eager"
        tokens, rows = batch.num_tokens, max(batch.num_samples, 0)
        if kind == "replayed":
            assert out.token_ids.shape == (batch.num_rows,), out.token_ids.shape
        assert out.logits.shape == (rows, MODELS["dense"]["vocab_size"]), out.logits.shape
        assert out.hidden.shape == (tokens, MODELS["dense"]["hidden_size"]), out.hidden.shape
        for tensor in (out.logits, out.hidden, out.sample_slots):
            assert tensor.device == DEVICE, tensor.device
        assert out.hidden.dtype == torch.bfloat16
        self.steps[kind] += 1
        return out


class FakeAttention(NpuAttention):
    """Without trials: nothing can be read of such tensors."""

    tries = False


def run(model: str, attention: str, writer: str) -> dict[str, Any]:
    """Serve some requests; what was called and how many steps ran.

    Raises:
        Exception: whatever a call that does not bind, or a shape that does not fit, raises.
    """
    steps: Counter[str] = Counter()
    options = Options(attention=attention, triton=False)
    untried: Any = SimpleNamespace(tried=tuple)
    fake, watch = FakeTensorMode(allow_non_fake_inputs=True), Watch()

    @contextmanager
    def modes() -> Iterator[None]:
        with fake, watch:
            yield

    def make(parts: RunnerParts) -> GraphRunner:
        made = Checked(parts, FakeCapture())
        made.steps = steps
        return made

    backend = Backend(
        name="npu",
        device=str(DEVICE),
        capabilities=Capabilities(
            dtypes=("bfloat16",),
            page_sizes=PAGE_SIZES,
            graph=GraphGrade.CAPTURED,
            same_step_sharing=True,
            plan_needs_host_lens=True,
            pipeline_depth=2,
        ),
        kernels=npu_kernels(options, untried)[0],
        attention=partial(FakeAttention, options),
        runner=make,
        runtime=partial(FakeRuntime, modes),
    )
    config = parse_hf_config(MODELS[model])
    settings: dict[str, Any] = {
        "dtype": "bfloat16",
        "page_size": 128,
        "max_total_tokens": 1024,
        "max_running_requests": 3,
        "chunked_prefill_size": 6,
    }
    source = Source(config=config, checkpoint=None, path="tiny", tokenizer_path="")
    tupelo_npu.fused_attention.choose_writer = lambda pool: getattr(calls, writer)
    with modes(), Engine(backend=backend, source=source, **settings) as engine:
        replies = engine.generate(input_ids=PROMPTS, sampling_params=GREEDY)
    assert [len(reply["output_ids"]) for reply in replies] == [4] * len(PROMPTS)
    assert steps["replayed"] >= 4
    assert steps["eager"] >= 4
    return {"steps": dict(steps), "called": dict(watch.called)}


@contextmanager
def wrong_keyword() -> Iterator[None]:
    """``rms_norm`` called with ``eps``, as torch's own, which torch-npu does not know."""
    right = calls.rms_norm
    calls.rms_norm = lambda x, weight, eps: torch.ops.npu.npu_rms_norm(x, weight, eps=eps)[0]
    try:
        yield
    finally:
        calls.rms_norm = right


def choose_in_groups() -> dict[str, Any]:
    """Experts chosen by sigmoids within groups, which no model above does."""
    watch = Watch()
    with FakeTensorMode(), watch:
        logits = torch.empty(9, 32, dtype=torch.bfloat16, device=DEVICE)
        bias = torch.empty(32, device=DEVICE)
        weights, experts = npu_ops.moe_route(logits, 3, True, "sigmoid", bias, 4, 2, 2, 2.5)
    shapes = weights.shape == experts.shape == (9, 3)
    kinds = (weights.dtype, experts.dtype) == (torch.float32, torch.int64)
    ok = shapes and kinds and experts.device == DEVICE
    return {"model": "groups of experts", "called": dict(watch.called), "ok": ok}


def schemas() -> list[dict[str, Any]]:
    """Every operator that is called: the schema that the tests' stand-ins have is torch-npu's."""
    found = []
    listed = dict.fromkeys(stand_ins.SCHEMAS, torch.ops.npu)
    for text, space in [*listed.items(), (stand_ins.ATB_SCHEMA, torch.ops.atb)]:
        name = text.partition("(")[0]
        real = str(getattr(space, name).default._schema).partition("::")[2]
        said = str(torch._C.parse_schema(text))
        found.append({"operator": name, "ok": said == real, "schema": real})
    named = {entry["operator"] for entry in found}
    found.append({"operator": "all that are called", "ok": named == set(calls.NAMES)})
    return found


def main() -> int:
    """Run everything; 1 if anything is not as it should be."""
    report: dict[str, Any] = {"torch_npu": torch_npu.__version__, "schemas": schemas(), "steps": []}
    for model, attention, writer in RUNS:
        entry: dict[str, Any] = {"model": model, "attention": attention, "writer": writer}
        try:
            entry |= run(model, attention, writer) | {"ok": True}
        except Exception as error:
            traceback.print_exc()
            entry |= {"ok": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        print(json.dumps(entry), flush=True)
        report["steps"].append(entry)
    report["steps"].append(choose_in_groups())
    with wrong_keyword():
        try:
            run("dense", "fused", "scatter_kv")
            said = "nothing"
        except RuntimeError as error:
            said = str(error).splitlines()[0]
    caught = "Unknown keyword argument 'eps' for operator 'npu::npu_rms_norm'" in said
    report["wrong_keyword"] = {"ok": caught, "said": said}
    called = set().union(*(set(entry.get("called", ())) for entry in report["steps"]))
    missing = sorted(set(calls.NAMES) - called)
    report["all_called"] = {"ok": not missing, "missing": missing}
    Path(sys.argv[1]).write_text(json.dumps(report, indent=1))
    wrong = [entry for entry in _entries(report) if not entry["ok"]]
    print(f"fake_steps.py: {len(wrong)} wrong of {sum(1 for _ in _entries(report))}")
    for entry in wrong:
        print(entry)
    return 1 if wrong else 0


def _entries(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (*report["schemas"], *report["steps"])
    yield from (report["wrong_keyword"], report["all_called"])


if __name__ == "__main__":
    raise SystemExit(main())
