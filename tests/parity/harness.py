"""Runs a model over the reference parts, step by step, without scheduler, cache or engine.

A driver assigns slots and pages itself: pages come from a shuffled list, so that no sequence is
contiguous, and rows that are done with their prompts decode beside rows that are not.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tupelo.backend.attention import ReferenceAttention
from tupelo.backend.kv_pool import TorchKVPool
from tupelo.backend.runner import EagerRunner, RunnerParts
from tupelo.backend.runtime import TorchRuntime
from tupelo.backend.sampler import TorchSampler
from tupelo.batch import LAST_TOKEN, Admission, Batch, IntArray, PageDelta
from tupelo.models import Model
from tupelo.ops import OPS, OpTable
from tupelo.request import SamplingParams

GREEDY = SamplingParams(temperature=0.0, seed=0)


@dataclass(slots=True)
class Row:
    """One request: its ids so far, how many are computed, its pages by group, and what came out."""

    slot: int
    ids: list[int]
    num_prompt: int
    pages: list[list[int]]
    done: int = 0
    logits: list[Tensor] = field(default_factory=list)

    @property
    def generated(self) -> list[int]:
        """Tokens after the prompt."""
        return self.ids[self.num_prompt :]


class Driver:
    """A model with reference attention, a torch pool and the eager runner.

    Args:
        model: loaded; bound here, to ``ops``: by default the references.
        page_size: tokens a page.
        max_length: longest sequence.
        num_slots: sequences at once.
    """

    def __init__(
        self,
        model: Model,
        *,
        page_size: int,
        max_length: int = 128,
        num_slots: int = 8,
        ops: OpTable | None = None,
    ) -> None:
        runtime = TorchRuntime("cpu")
        ops = OpTable(OPS) if ops is None else ops
        model.bind(ops)
        max_pages = -(-max_length // page_size)
        num_pages = num_slots * max_pages
        groups = len(model.kv_specs)
        self.model = model
        self._page_size = page_size
        shuffle = random.Random(page_size).sample
        self._free = [shuffle(range(num_pages), num_pages) for _ in range(groups)]
        self._slots = shuffle(range(num_slots), num_slots)
        self._runner = EagerRunner(
            RunnerParts(
                model=model,
                attention=ReferenceAttention(model.attention_specs, page_size, max_pages, runtime),
                kv=TorchKVPool(model.kv_specs, [num_pages] * groups, page_size, runtime),
                sampler=TorchSampler(num_slots, model.config.vocab_size, ops, runtime),
                runtime=runtime,
                num_slots=num_slots,
                max_pages=max_pages,
                num_groups=groups,
            )
        )
        self._step = 0

    def generate(
        self, prompts: Sequence[Sequence[int]], *, new_tokens: int, chunk: int = 0
    ) -> list[Row]:
        """Greedy tokens, and the logits of every position, of a batch of prompts.

        Args:
            chunk: prompt tokens of a row and step at most; 0: whole prompts.
        """
        rows = [Row(self._slots.pop(), list(p), len(p), [[] for _ in self._free]) for p in prompts]
        while live := [r for r in rows if len(r.generated) < new_tokens]:
            # Decode rows first, as a batch has them.
            live.sort(key=lambda r: r.done < r.num_prompt)
            self._run(live, chunk)
        for row in rows:
            self._slots.append(row.slot)
            for free, pages in zip(self._free, row.pages, strict=True):
                free.extend(pages)
        return rows

    @torch.inference_mode()
    def _run(self, rows: list[Row], chunk: int) -> None:
        counts = [min(len(r.ids) - r.done, chunk or len(r.ids)) for r in rows]
        batch = self._batch(rows, counts)
        forward = self._runner.forward(batch)
        logits = self.model.logits(forward.hidden).split(counts)
        tokens = self._runner.sample(forward, batch).wait().token_ids
        for row, count, part in zip(rows, counts, logits, strict=True):
            row.done += count
            row.logits.append(part.float())
        for index, token in zip(batch.sample_rows, tokens, strict=True):
            rows[index].ids.append(int(token))

    def _batch(self, rows: list[Row], counts: list[int]) -> Batch:
        ends = [r.done + n for r, n in zip(rows, counts, strict=True)]
        spans = [range(r.done, end) for r, end in zip(rows, ends, strict=True)]
        cu = np.cumsum([0, *counts])
        sampling = [i for i, r in enumerate(rows) if ends[i] == len(r.ids)]
        deltas = tuple(self._grow(rows, ends, group) for group in range(len(self._free)))
        mapping = tuple(
            _array(
                row.pages[group][p // self._page_size] * self._page_size + p % self._page_size
                for row, span in zip(rows, spans, strict=True)
                for p in span
            )
            for group in range(len(self._free))
        )
        self._step += 1
        return Batch(
            step=self._step,
            slots=_array(r.slot for r in rows),
            num_decode_rows=sum(r.done >= r.num_prompt for r in rows),
            cu_seqlens_q=_array(cu),
            seq_lens=_array(ends),
            # What was sampled last stays on the device, as in the pipelined engine.
            input_ids=_array(
                r.ids[p] if p < r.num_prompt else LAST_TOKEN
                for r, span in zip(rows, spans, strict=True)
                for p in span
            ),
            positions=_array(p for span in spans for p in span),
            slot_mapping=mapping,
            page_deltas=deltas,
            logits_rows=_array(cu[i + 1] - 1 for i in sampling),
            sample_rows=_array(sampling),
            admissions=tuple(
                Admission(
                    slot=r.slot,
                    params=GREEDY,
                    seed=0,
                    input_ids=_array(r.ids),
                    num_prompt_tokens=r.num_prompt,
                )
                for r in rows
                if r.done == 0
            ),
        )

    def _grow(self, rows: list[Row], ends: list[int], group: int) -> PageDelta:
        entries = []
        for row, end in zip(rows, ends, strict=True):
            pages = row.pages[group]
            while len(pages) * self._page_size < end:
                entries.append((row.slot, len(pages), self._free[group][-1]))
                pages.append(self._free[group].pop())
        slots, indices, pages_ = zip(*entries, strict=True) if entries else ((), (), ())
        return PageDelta(_array(slots), _array(indices), _array(pages_))


def _array(values: object) -> IntArray:
    return np.array(list(values), np.int32)  # type: ignore[call-overload]
