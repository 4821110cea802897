"""Taking a step's result into the entries: tokens, log-probabilities, stop rules on ids."""

import time
from typing import NamedTuple

from tupelo.batch import Feature, StepResult
from tupelo.request import FinishReason
from tupelo.scheduler.builder import Row, Step
from tupelo.scheduler.entry import Entry, Phase
from tupelo.scheduler.pooled import record_pooled


class Ended(NamedTuple):
    """A request that is over, and why; ``matched`` is the stop token, ``message`` an error's."""

    entry: Entry
    reason: FinishReason
    matched: int | None = None
    message: str = ""


def record_result(step: Step, result: StepResult) -> tuple[list[Row], list[Ended]]:
    """Append what the step produced; see ``Scheduler.commit``."""
    _record_scores(step, result)
    record_pooled(step, result)
    _record_wanted(step, result)
    ended: list[Ended] = []
    live: list[Row] = []
    now = time.monotonic()
    with_logprobs = Feature.LOGPROBS in step.batch.features
    for index, (row, token) in enumerate(zip(step.rows, result.token_ids.tolist(), strict=True)):
        entry = row.entry
        if entry.phase is Phase.FINISHED or entry.epoch != row.epoch:
            continue
        entry.num_pending -= 1
        entry.append(token)
        if entry.num_ids == entry.num_prompt + 1:
            entry.first_token_s = now
        if with_logprobs and entry.request.logprobs:
            _record_logprobs(entry, index, result)
        if entry.matcher is not None:
            entry.matcher.accept(token)
        live.append(row)
        end = ending(entry)
        if end is not None:
            ended.append(end)
    for row, stop in zip(step.chunks, step.ends, strict=True):
        entry = row.entry
        done = not entry.max_new_tokens and stop == entry.num_prompt
        if done and entry.phase is not Phase.FINISHED and entry.epoch == row.epoch:
            ended.append(Ended(entry, FinishReason.LENGTH))
    return live, ended


def ending(entry: Entry) -> Ended | None:
    """How its last token ends a request, if it does."""
    token, generated = int(entry.ids[entry.num_ids - 1]), entry.num_ids - entry.num_prompt
    if token in entry.stop_ids and generated > entry.request.params.min_new_tokens:
        return Ended(entry, FinishReason.STOP, token)
    if entry.matcher is not None and (end := grammar_ending(entry)) is not None:
        return end
    if generated >= entry.max_new_tokens:
        return Ended(entry, FinishReason.LENGTH)
    return None


def grammar_ending(entry: Entry) -> Ended | None:
    """How its grammar ends a request, if it does: complete, or failed."""
    assert entry.matcher is not None
    if entry.matcher.error:
        return Ended(entry, FinishReason.ERROR, message=entry.matcher.error)
    return Ended(entry, FinishReason.STOP) if entry.matcher.ended else None


def _record_logprobs(entry: Entry, index: int, result: StepResult) -> None:
    assert result.logprobs is not None
    entry.logprobs.append(float(result.logprobs[index]))
    wanted = entry.request.top_logprobs
    if wanted:
        assert result.top_ids is not None
        assert result.top_logprobs is not None
        ids = result.top_ids[index, :wanted].tolist()
        entry.tops.append(list(zip(ids, result.top_logprobs[index, :wanted].tolist(), strict=True)))


def _record_scores(step: Step, result: StepResult) -> None:
    if not step.scores:
        return
    assert result.score_logprobs is not None
    start = 0
    for row, count in step.scores:
        entry, stop = row.entry, start + count
        if entry.phase is not Phase.FINISHED and entry.epoch == row.epoch:
            entry.prompt_logprobs += result.score_logprobs[start:stop].tolist()
            wanted = entry.request.top_logprobs
            if wanted:
                assert result.score_top_ids is not None
                assert result.score_top_logprobs is not None
                ids = result.score_top_ids[start:stop, :wanted].tolist()
                values = result.score_top_logprobs[start:stop, :wanted].tolist()
                entry.prompt_tops += [
                    list(zip(i, v, strict=True)) for i, v in zip(ids, values, strict=True)
                ]
        start = stop


def _record_wanted(step: Step, result: StepResult) -> None:
    if not step.wanted:
        return
    assert result.wanted_logprobs is not None
    start = 0
    for row, count, of_prompt in step.wanted:
        entry, stop = row.entry, start + count
        if entry.phase is not Phase.FINISHED and entry.epoch == row.epoch:
            width = len(entry.request.token_ids_logprob)
            values = result.wanted_logprobs[start:stop, :width].tolist()
            (entry.prompt_wanted if of_prompt else entry.wanted).extend(values)
        start = stop
