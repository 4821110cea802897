"""Building the record of a step out of the slots' columns and the chosen prompt chunks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tupelo.batch import LAST_TOKEN, Admission, Batch, IntArray, PrefixGroups
from tupelo.scheduler.entry import Entry
from tupelo.scheduler.slots import SlotTable


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``[start, stop)`` of a request's known ids, to be computed in one step."""

    entry: Entry
    start: int
    stop: int

    @property
    def samples(self) -> bool:
        """Whether the step samples a token for it: the chunk ends the prompt and output is
        wanted."""
        return self.stop == self.entry.num_ids and self.entry.max_new_tokens > 0


@dataclass(frozen=True, slots=True)
class Row:
    """Who a row of a step belongs to; ``epoch`` tells a request from itself before a retraction."""

    entry: Entry
    epoch: int


@dataclass(frozen=True, slots=True)
class Step:
    """A batch and what the scheduler remembers of it until its result is there.

    Attributes:
        rows: of the sampling rows, in the order of ``batch.logits_rows``.
        chunks: the prompt chunks in it. scores: chunk and number of scored positions, in order.
        pooled: for each group of ``batch.pooled`` chunk and number of its outputs, in order.
        wanted: of ``batch.wanted_tokens``, whose they are, how many, and whether of the prompt.
    """

    batch: Batch
    rows: list[Row]
    chunks: list[Row]
    ends: list[int]
    scores: list[tuple[Row, int]]
    pooled: list[list[tuple[Row, int]]] = field(default_factory=list)
    wanted: list[tuple[Row, int, bool]] = field(default_factory=list)


def build_step(
    number: int,
    table: SlotTable,
    decode_slots: IntArray,
    chunks: Sequence[Chunk],
    admissions: Sequence[Admission],
    prefix_groups: PrefixGroups | None = None,
) -> Step:
    """The step that decodes one token for each of ``decode_slots`` and computes ``chunks``.

    The slots' columns still say what was computed before this step. ``prefix_groups`` are of
    ``decode_slots``.
    """
    num_decode = len(decode_slots)
    lengths = np.array([c.stop - c.start for c in chunks], np.int32)
    chunk_slots = np.array([c.entry.slot for c in chunks], np.int32)
    counts = np.concatenate([np.ones(num_decode, np.int32), lengths])
    cu_seqlens = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=cu_seqlens[1:])
    decode_positions = table.length[decode_slots]
    positions = np.concatenate(
        [decode_positions, *(np.arange(c.start, c.stop, dtype=np.int32) for c in chunks)]
    )
    input_ids = np.concatenate(
        [
            np.full(num_decode, LAST_TOKEN, np.int32),
            *(c.entry.ids[c.start : c.stop].astype(np.int32) for c in chunks),
        ]
    )
    slots = np.concatenate([decode_slots, chunk_slots])
    seq_lens = np.concatenate([decode_positions + 1, np.array([c.stop for c in chunks], np.int32)])
    sampling = [i for i, c in enumerate(chunks) if c.samples]
    sample_rows = np.concatenate(
        [np.arange(num_decode, dtype=np.int32), np.array(sampling, np.int32) + np.int32(num_decode)]
    )
    score_tokens, score_targets, scores = _scores(chunks, cu_seqlens, num_decode)
    sample_slots = slots[sample_rows]
    logits_rows = cu_seqlens[sample_rows + 1] - 1
    rows = [_row(table.entries[slot]) for slot in sample_slots.tolist()]
    wanting = np.flatnonzero(table.wants_ids[sample_slots])
    wanted_tokens, wanted_ids, wanted = _wanted(
        score_tokens, scores, [(rows[i], logits_rows[i]) for i in wanting.tolist()]
    )
    batch = Batch(
        step=number,
        slots=slots,
        num_decode_rows=num_decode,
        cu_seqlens_q=cu_seqlens,
        seq_lens=seq_lens,
        input_ids=input_ids,
        positions=positions,
        slot_mapping=table.mapping(np.repeat(slots, counts), positions),
        page_deltas=table.take_deltas(),
        admissions=tuple(admissions),
        logits_rows=logits_rows,
        sample_rows=sample_rows,
        top_logprobs=int(table.top_logprobs[sample_slots].max(initial=0)),
        score_tokens=score_tokens,
        score_targets=score_targets,
        score_top=max((row.entry.request.top_logprobs for row, _ in scores), default=0),
        wanted_tokens=wanted_tokens,
        wanted_ids=wanted_ids,
        features=table.features_of(sample_slots),
        prefix_groups=prefix_groups,
    )
    ends = [c.stop for c in chunks]
    chunk_rows = [_row(c.entry) for c in chunks]
    return Step(batch, rows, chunk_rows, ends, scores, wanted=wanted)


def _scores(
    chunks: Sequence[Chunk], cu_seqlens: IntArray, num_decode: int
) -> tuple[IntArray, IntArray, list[tuple[Row, int]]]:
    """Positions whose next prompt token is scored: token indices, targets, and how many a chunk."""
    tokens: list[IntArray] = [np.empty(0, np.int32)]
    targets: list[IntArray] = [np.empty(0, np.int32)]
    owners: list[tuple[Row, int]] = []
    for index, chunk in enumerate(chunks):
        entry = chunk.entry
        first = max(entry.scored, chunk.start + 1)
        last = min(chunk.stop, entry.num_prompt - 1)
        if first > last:
            continue
        offset = int(cu_seqlens[num_decode + index]) - chunk.start - 1
        wanted = np.arange(first, last + 1, dtype=np.int32)
        tokens.append(wanted + np.int32(offset))
        targets.append(entry.ids[first : last + 1].astype(np.int32))
        owners.append((_row(entry), len(wanted)))
        entry.scored = last + 1
    return np.concatenate(tokens), np.concatenate(targets), owners


def _wanted(
    score_tokens: IntArray, scores: list[tuple[Row, int]], sampling: list[tuple[Row, int]]
) -> tuple[IntArray, IntArray, list[tuple[Row, int, bool]]]:
    """Positions at which requests want the log-probabilities of ids that they name: the scored
    ones of their prompts, and the sampling ones."""
    tokens: list[IntArray] = []
    owners: list[tuple[Row, int, bool]] = []
    start = 0
    for row, count in scores:
        if row.entry.request.token_ids_logprob:
            tokens.append(score_tokens[start : start + count])
            owners.append((row, count, True))
        start += count
    for row, token in sampling:
        tokens.append(np.array([token], np.int32))
        owners.append((row, 1, False))
    if not owners:
        return np.empty(0, np.int32), np.empty((0, 0), np.int32), owners
    named = [row.entry.request.token_ids_logprob for row, _, _ in owners]
    ids = np.zeros((len(owners), max(map(len, named))), np.int32)
    for place, values in zip(ids, named, strict=True):
        place[: len(values)] = values
    return np.concatenate(tokens), np.repeat(ids, [n for _, n, _ in owners], axis=0), owners


def _row(entry: Entry | None) -> Row:
    assert entry is not None
    return Row(entry, entry.epoch)
