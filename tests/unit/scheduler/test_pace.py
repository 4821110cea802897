"""Step times learnt from steps, and prompts cut by them where somebody reads along."""

import pytest

from tupelo.batch import StepResult
from tupelo.request import Request, SamplingParams
from tupelo.scheduler import Scheduler, SchedulerConfig, Step
from tupelo.scheduler.pace import StepTimes
from tupelo.specs import PageGroup

DECODE_S, TOKEN_S = 0.006, 25e-6


def seconds(rows: int, prompt_tokens: int) -> float:
    """A device: bound by its weights, or by arithmetic."""
    return max(DECODE_S, TOKEN_S * (rows + prompt_tokens))


def taught() -> StepTimes:
    times = StepTimes()
    for rows, tokens in ((0, 640), (1, 0), (8, 300), (8, 0), (9, 1000), (9, 0)):
        times.observe(rows, tokens, seconds(rows, tokens))
    return times


def test_what_was_learnt_is_predicted() -> None:
    times = taught()
    for rows, tokens in ((8, 0), (4, 512), (0, 2000), (3, 10)):
        assert times.predicted_s(rows, tokens) == pytest.approx(seconds(rows, tokens))
    assert times.prompt_tokens_within(10, 0.030) == 1190
    assert times.prompt_tokens_within(2000, 0.030) == 0


def test_nothing_is_predicted_of_what_was_never_seen() -> None:
    times = StepTimes()
    assert times.prompt_tokens_within(3, 0.030) is None
    assert times.predicted_s(3, 100) == 0.0
    times.observe(5, 10, 0.5)  # so few prompt tokens tell nothing about the time of one
    assert times.prompt_tokens_within(3, 0.030) is None


def test_time_that_no_token_takes_is_told_apart_and_no_prompt_is_cut_for_it() -> None:
    times = StepTimes()
    for tokens in (300, 900, 500, 700, 1100, 400):
        times.observe(8, tokens, 0.020 + 10e-6 * (8 + tokens))
    assert times.predicted_s(8, 800) == pytest.approx(0.02808)
    assert times.prompt_tokens_within(8, 0.050) == pytest.approx(2992, abs=1)
    # Launching takes longer than the bound: half of it is the tokens' even so.
    assert times.prompt_tokens_within(8, 0.018) == pytest.approx(892, abs=1)


def test_one_stall_of_the_host_moves_the_estimate_little_and_a_slower_device_moves_it() -> None:
    times = taught()
    times.observe(8, 0, 3.0)
    assert times.decode_s < 1.5 * DECODE_S
    for _ in range(60):
        times.observe(8, 0, 3 * DECODE_S)
    assert times.decode_s == pytest.approx(3 * DECODE_S, rel=0.02)


class Run:
    """A scheduler whose steps all succeed and take the device's time."""

    def __init__(self, step_s: float) -> None:
        self.scheduler = Scheduler(
            SchedulerConfig(
                groups=(PageGroup(num_pages=4096),),
                page_size=16,
                context_length=16384,
                max_running=8,
                chunk_tokens=8192,
                step_s=step_s,
            )
        )

    def submit(self, rid: str, tokens: int, *, stream: bool) -> None:
        params = SamplingParams(max_new_tokens=200, ignore_eos=True)
        ids = tuple((7 * len(rid) + i) % 997 for i in range(tokens))
        self.scheduler.submit(Request(rid=rid, input_ids=ids, params=params, stream=stream))

    def step(self) -> tuple[int, int]:
        """Decode rows and prompt tokens of the next step."""
        step = self.scheduler.schedule()
        assert step is not None
        batch = step.batch
        rows, tokens = batch.num_decode_rows, batch.num_tokens - batch.num_decode_rows
        self.scheduler.times.observe(rows, tokens, seconds(rows, tokens))
        self.scheduler.commit(step, result_of(step))
        return rows, tokens


def result_of(step: Step) -> StepResult:
    return StepResult(token_ids=step.batch.slots[step.batch.sample_rows] + 1)


def test_prompts_are_cut_to_the_predicted_time_while_a_streamed_request_decodes() -> None:
    run = Run(step_s=0.030)
    run.submit("reader", 2000, stream=True)
    assert run.step() == (0, 2000)  # nobody decodes yet
    run.submit("long", 8000, stream=True)
    sizes = [run.step() for _ in range(8)]
    assert sizes[0] == (1, 1199 - 1199 % 16)
    assert all(seconds(*size) <= 0.030 for size in sizes)
    assert sum(tokens for _, tokens in sizes) == 8000


def test_steps_may_take_twice_as_long_while_many_wait() -> None:
    run = Run(step_s=0.030)
    run.submit("reader", 2000, stream=True)
    run.step()
    for n in range(10):
        run.submit("x" * (n + 2), 6000, stream=True)
    assert 0.030 < seconds(*run.step()) < 0.061
    while run.scheduler.num_waiting > 8:
        run.step()
    later = [seconds(*run.step()) for _ in range(4)]
    assert max(later) < 0.031, later


@pytest.mark.parametrize(("step_s", "stream"), [(0.030, False), (0.0, True)])
def test_prompts_are_not_cut_where_nobody_reads_along_or_no_bound_is_set(
    step_s: float, stream: bool
) -> None:
    run = Run(step_s)
    run.submit("first", 2000, stream=stream)
    run.step()
    run.submit("long", 8000, stream=True)
    assert run.step() == (1, 8000)


def test_prompts_get_their_part_even_where_decoding_alone_takes_longer() -> None:
    run = Run(step_s=DECODE_S / 4)
    run.submit("reader", 2000, stream=True)
    run.step()
    run.submit("long", 8000, stream=False)
    assert run.step() == (1, 8192 // 16)
