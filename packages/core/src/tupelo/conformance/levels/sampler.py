"""Level 2: sampling. Choices against numpy; randomness as a function of (seed, position)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from tupelo.batch import Feature
from tupelo.conformance.case import Case, check
from tupelo.conformance.sampler_world import SamplerWorld, log_softmax, penalised
from tupelo.conformance.target import Target
from tupelo.ops.samples_sampling import filtered, pack_bits
from tupelo.request import SamplingParams

VOCAB = 40
GREEDY = SamplingParams(temperature=0.0)
SAMPLING, PENALTIES, BIAS = Feature.SAMPLING, Feature.PENALTIES, Feature.BIAS

FILTERS = {
    "none": SamplingParams(temperature=0.8),
    "top_k": SamplingParams(top_k=5),
    "top_p": SamplingParams(top_p=0.7),
    "min_p": SamplingParams(min_p=0.15),
    "together": SamplingParams(temperature=1.3, top_k=12, top_p=0.8, min_p=0.05),
}

PENALTY_KINDS = {
    "frequency": SamplingParams(temperature=0.0, frequency_penalty=0.7),
    "presence": SamplingParams(temperature=0.0, presence_penalty=1.5),
    "repetition": SamplingParams(temperature=0.0, repetition_penalty=1.6),
    "together": SamplingParams(
        temperature=0.0, frequency_penalty=0.4, presence_penalty=-0.6, repetition_penalty=0.8
    ),
}


def sampler_cases(target: Target) -> Iterator[Case]:
    """The sampler cases of level 2: ``sampler/NAME``."""
    cases: list[tuple[str, Callable[[Target], None]]] = [
        ("greedy", _greedy),
        ("greedy_beside_sampled", _greedy_beside_sampled),
        ("seed/row_order", _seed_row_order),
        ("seed/other_slot", _seed_other_slot),
        ("seed/alone", _seed_alone),
        ("seed/position", _seed_position),
        *((f"support/{name}", partial(_support, params=p)) for name, p in FILTERS.items()),
        *(
            (f"distribution/{name}", partial(_distribution, params=p))
            for name, p in FILTERS.items()
        ),
        *(
            (f"penalties/{name}", partial(_penalties, params=p))
            for name, p in PENALTY_KINDS.items()
        ),
        ("penalties/neighbour", _penalties_neighbour),
        ("penalties/retracted", _penalties_retracted),
        ("penalties/slot_reuse", _penalties_slot_reuse),
        ("bias", _bias),
        ("bias/slot_reuse", _bias_slot_reuse),
        ("min_new_tokens", _min_new_tokens),
        ("mask", _mask),
        ("mask/sampled", _mask_sampled),
        ("padding", _padding),
        *((f"logprobs/{d}", partial(_logprobs, dtype=d)) for d in _dtypes(target)),
        ("logprobs/before_penalties", _logprobs_before_penalties),
    ]
    for name, run in cases:
        yield Case(f"sampler/{name}", 2, partial(run, target))


def _dtypes(target: Target) -> tuple[str, ...]:
    return target.backend.capabilities.dtypes


def _world(target: Target, num_slots: int = 6) -> SamplerWorld:
    return SamplerWorld(target, num_slots, VOCAB, target.dtype)


def _logits(rows: int, seed: int, size: float = 2.0) -> np.ndarray:
    """Random logits on a grid of 1/16, which every compute type holds exactly up to 16."""
    numbers = np.random.default_rng(seed).standard_normal((rows, VOCAB)) * size
    grid = np.clip(np.round(numbers * 16), -255, 255) / 16
    grid[np.arange(rows), np.argmax(grid, axis=1)] += 0.25
    return grid.astype(np.float32)


def _greedy(target: Target) -> None:
    world, logits = _world(target), _logits(6, seed=1)
    for slot in range(6):
        world.admit(slot, SamplingParams(top_k=1) if slot % 2 else GREEDY)
    ids, _ = world.sample(logits, range(6), [4] * 6, {})
    check(np.array_equal(ids, logits.argmax(1)), f"greedy chose {ids}, want {logits.argmax(1)}")


def _greedy_beside_sampled(target: Target) -> None:
    world, logits = _world(target), _logits(6, seed=2)
    for slot in range(6):
        world.admit(slot, SamplingParams(temperature=5.0) if slot % 2 else GREEDY, seed=slot)
    for position in range(3, 9):
        ids, _ = world.sample(logits, range(6), [position] * 6, {SAMPLING})
        same = np.array_equal(ids[::2], logits.argmax(1)[::2])
        check(same, "a greedy row beside sampled ones did not take the most probable id")


def _draws(
    world: SamplerWorld, slots: Sequence[int], positions: Sequence[int], logits: np.ndarray
) -> np.ndarray:
    """(len(positions), len(slots)) ids, one step for each position."""
    return np.stack(
        [world.sample(logits, slots, [p] * len(slots), {SAMPLING})[0] for p in positions]
    )


def _seed_row_order(target: Target) -> None:
    """The same slots in another order draw the same ids."""
    world, logits = _world(target), _logits(6, seed=3, size=1.0)
    for slot in range(6):
        world.admit(slot, SamplingParams(), seed=100 + slot)
    order = [4, 2, 0, 5, 1, 3]
    first = _draws(world, range(6), range(8), logits)
    second = _draws(world, order, range(8), logits[order])
    check(np.array_equal(first[:, order], second), "what a row draws depends on its place")


def _seed_other_slot(target: Target) -> None:
    """One seed in all slots, one position, one distribution: one id."""
    world = _world(target)
    for slot in range(6):
        world.admit(slot, SamplingParams(), seed=2**40 + 7)
    drawn = _draws(world, range(6), range(8), np.repeat(_logits(1, seed=4, size=1.0), 6, axis=0))
    check(bool((drawn == drawn[:, :1]).all()), "what a seed draws depends on its slot")


def _seed_alone(target: Target) -> None:
    """A row alone draws what it draws among others, sampled, penalised and biased ones."""
    world, logits = _world(target), _logits(6, seed=5, size=1.0)
    for slot in range(6):
        params = SamplingParams(top_k=3 if slot % 2 else -1, presence_penalty=0.5 * (slot > 3))
        world.admit(slot, params, seed=slot)
    together, _ = world.sample(logits, range(6), range(9, 15), {SAMPLING})
    for slot in range(6):
        alone, _ = world.sample(logits[slot : slot + 1], [slot], [9 + slot], {SAMPLING})
        check(alone[0] == together[slot], f"slot {slot} draws another id alone than in a batch")


def _seed_position(target: Target) -> None:
    """Positions, and seeds, draw independently: flat logits give an even spread."""
    world = _world(target, num_slots=32)
    for slot in range(32):
        world.admit(slot, SamplingParams(), seed=slot)
    drawn = _draws(world, range(32), range(40), np.zeros((32, VOCAB), np.float32))
    for axis, what in ((0, "positions of a seed"), (1, "seeds at a position")):
        agree = float((np.diff(drawn, axis=axis) == 0).mean())
        check(agree < 3 / VOCAB, f"{agree:.0%} of neighbouring {what} draw the same id")


def _many(target: Target, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """Logits (VOCAB,) and 1,920 draws from them."""
    world, logits = _world(target, num_slots=64), _logits(1, seed=6)
    for slot in range(64):
        world.admit(slot, params, seed=1000 + slot)
    rows = np.repeat(logits, 64, axis=0)
    return logits[0], _draws(world, range(64), range(30), rows).reshape(-1)


def _support(target: Target, params: SamplingParams) -> None:
    """Only what the filters keep is drawn, and all of it that is likely."""
    logits, drawn = _many(target, params)
    ids, probs = filtered(logits / params.temperature, params.top_k, params.top_p, params.min_p)
    surplus = sorted(set(drawn.tolist()) - set(ids.tolist()))
    check(not surplus, f"drew {surplus}, which the filters exclude; kept are {ids.tolist()}")
    missing = sorted(set(ids[probs > 0.01].tolist()) - set(drawn.tolist()))
    check(not missing, f"never drew {missing} in {len(drawn)} draws, which the filters keep")


def _distribution(target: Target, params: SamplingParams) -> None:
    """Ids come as often as they should: chi-square below its 1e-6 quantile, roughly."""
    logits, drawn = _many(target, params)
    ids, probs = filtered(logits / params.temperature, params.top_k, params.top_p, params.min_p)
    expected = probs * len(drawn)
    common = expected >= 5
    seen = np.array([(drawn == token).sum() for token in ids], np.float64)
    chi = float(((seen - expected)[common] ** 2 / expected[common]).sum())
    freedom = int(common.sum()) - 1
    limit = freedom + 5 * (2 * freedom) ** 0.5 + 12
    check(
        chi < limit, f"chi-square {chi:.1f} with {freedom} degrees of freedom; allowed {limit:.0f}"
    )


def _penalties(target: Target, params: SamplingParams) -> None:
    """Twelve greedy steps with prompt and growing output, against numpy."""
    world, prompt = _world(target), [3, 3, 8, 11]
    world.admit(2, params, prompt=prompt)
    _follow(world, 2, params, prompt, [], steps=12, seed=20)


def _follow(
    world: SamplerWorld,
    slot: int,
    params: SamplingParams,
    prompt: Sequence[int],
    output: list[int],
    *,
    steps: int,
    seed: int,
) -> None:
    logits = _logits(1, seed)
    for _ in range(steps):
        want = penalised(logits[0], params, prompt, output)
        ids, _ = world.sample(logits, [slot], [len(prompt) + len(output)], {PENALTIES})
        _check_best(int(ids[0]), want, f"after output {output}")
        output.append(int(ids[0]))


def _check_best(token: int, want: np.ndarray, where: str) -> None:
    short = float(want.max() - want[token])
    check(short <= 1e-4, f"{where}: chose {token}, {short:.3g} below the best, {want.argmax()}")


def _penalties_neighbour(target: Target) -> None:
    """Three rows, of which the middle one is not penalised, and others in other ways."""
    world, kinds = _world(target), [*PENALTY_KINDS.values()]
    rows = [(0, kinds[0], [1, 2]), (3, GREEDY, [4, 4, 5]), (5, kinds[3], [6])]
    for slot, params, prompt in rows:
        world.admit(slot, params, prompt=prompt)
    outputs: list[list[int]] = [[], [], []]
    logits = _logits(3, seed=21)
    for step in range(10):
        order = [0, 1, 2] if step % 2 else [2, 0, 1]
        slots = [rows[i][0] for i in order]
        positions = [len(rows[i][2]) + step for i in order]
        ids, _ = world.sample(logits[order], slots, positions, {PENALTIES})
        for token, i in zip(ids.tolist(), order, strict=True):
            want = penalised(logits[i], rows[i][1], rows[i][2], outputs[i])
            _check_best(token, want, f"step {step}, slot {rows[i][0]}")
            outputs[i].append(token)


def _penalties_retracted(target: Target) -> None:
    """A request admitted again with its output: prompt and output stay apart."""
    world, params = _world(target), SamplingParams(temperature=0.0, frequency_penalty=1.0)
    prompt, output = [7, 9, 9], [5, 5, 7]
    world.admit(1, params, prompt=prompt, output=output)
    _follow(world, 1, params, prompt, list(output), steps=8, seed=22)


def _penalties_slot_reuse(target: Target) -> None:
    """Nothing of a slot's last request is left for the next, penalised or not."""
    world, params = _world(target), PENALTY_KINDS["together"]
    world.admit(1, params, prompt=[1, 2, 3])
    _follow(world, 1, params, [1, 2, 3], [], steps=6, seed=23)
    world.admit(1, GREEDY, prompt=[9])
    _follow(world, 1, GREEDY, [9], [], steps=3, seed=24)
    other = PENALTY_KINDS["repetition"]
    world.admit(1, other, prompt=[4])
    _follow(world, 1, other, [4], [], steps=6, seed=23)  # where the first one's ids are the best


def _bias(target: Target) -> None:
    """Biases of one row, up to the bounds, beside a row that has none."""
    world, logits = _world(target), _logits(3, seed=30)
    pushed, best = 17, int(logits[1].argmax())
    world.admit(0, GREEDY)
    world.admit(1, SamplingParams(temperature=0.0, logit_bias=((best, -100.0), (3, 0.5))))
    world.admit(2, SamplingParams(temperature=0.0, logit_bias=((pushed, 100.0),)))
    for position in (5, 500):
        ids, _ = world.sample(logits, [0, 1, 2], [position] * 3, {BIAS})
        want = logits[1].copy()
        want[best] -= 100.0
        want[3] += 0.5
        expected = [int(logits[0].argmax()), int(want.argmax()), pushed]
        check(ids.tolist() == expected, f"with biases it chose {ids.tolist()}, want {expected}")


def _bias_slot_reuse(target: Target) -> None:
    world, logits = _world(target), _logits(1, seed=31)
    world.admit(4, SamplingParams(temperature=0.0, logit_bias=((9, 100.0), (8, 50.0))))
    world.admit(4, SamplingParams(temperature=0.0, logit_bias=((5, 100.0),)))
    ids, _ = world.sample(logits, [4], [6], {BIAS})
    check(ids.tolist() == [5], "a bias of the slot's last request is still there")
    world.admit(4, GREEDY)
    ids, _ = world.sample(logits, [4], [6], {BIAS})
    check(ids.tolist() == [int(logits[0].argmax())], "a request without bias got the last one's")


def _min_new_tokens(target: Target) -> None:
    """Stop ids are suppressed for exactly ``min_new_tokens`` tokens."""
    world, logits = _world(target), _logits(2, seed=32)
    stop = int(logits[0].argmax())
    logits[1, stop] = logits[1].max() + 1
    params = SamplingParams(temperature=0.0, min_new_tokens=3)
    world.admit(0, params, prompt=[1] * 5, stop_ids=(stop,))
    world.admit(1, GREEDY, prompt=[1] * 5, stop_ids=(stop,))
    for generated in range(5):
        ids, _ = world.sample(logits, [0, 1], [5 + generated] * 2, {BIAS})
        early = generated < 3
        check(
            (ids[0] == stop) != early, f"after {generated} tokens of at least 3 it chose {ids[0]}"
        )
        check(ids[1] == stop, "a row without min_new_tokens had its stop id suppressed")


def _allowed(rows: int, seed: int) -> np.ndarray:
    allowed = np.random.default_rng(seed).random((rows, VOCAB)) < 0.3
    allowed[:, 31] = True
    return allowed


def _mask(target: Target) -> None:
    world, logits, allowed = _world(target), _logits(6, seed=33), _allowed(6, seed=34)
    allowed[5] = True
    for slot in range(6):
        world.admit(slot, GREEDY)
    mask = pack_bits(torch.from_numpy(allowed)).numpy()
    ids, _ = world.sample(logits, range(6), [4] * 6, {Feature.MASK}, mask=mask)
    want = np.where(allowed, logits, -np.inf).argmax(1)
    check(np.array_equal(ids, want), f"under a mask it chose {ids}, want {want}")


def _mask_sampled(target: Target) -> None:
    """Hot sampling never draws what a mask forbids, whatever the filters."""
    world, allowed = _world(target), _allowed(6, seed=35)
    logits = np.where(allowed, -6.0, 6.0).astype(np.float32)
    for slot in range(6):
        params = SamplingParams(temperature=2.0, top_p=0.9 if slot % 2 else 1.0)
        world.admit(slot, params, seed=slot)
    mask = pack_bits(torch.from_numpy(allowed)).numpy()
    for position in range(10):
        features = {Feature.MASK, SAMPLING}
        ids, _ = world.sample(logits, range(6), [position] * 6, features, mask=mask)
        check(bool(allowed[np.arange(6), ids].all()), f"drew {ids}, forbidden by the mask")


def _padding(target: Target) -> None:
    """Padding rows change no real row: neither its draws nor its counts."""
    params = SamplingParams(frequency_penalty=0.5)
    drawn = []
    for padding in (0, 3):
        world, logits = _world(target), _logits(4, seed=36)
        for slot in range(4):
            world.admit(slot, params, seed=slot)
        features = {SAMPLING, PENALTIES, BIAS}
        steps = [
            world.sample(logits, range(4), [p] * 4, features, padding=padding)[0] for p in range(6)
        ]
        drawn.append(np.stack(steps))
    check(np.array_equal(drawn[0], drawn[1]), "padding rows changed what real rows draw")


def _logprobs(target: Target, dtype: str) -> None:
    """Of the chosen ids, and of the five best, from the model's own distribution."""
    world = SamplerWorld(target, 6, VOCAB, dtype)
    logits = _logits(6, seed=37)
    for slot in range(6):
        world.admit(slot, SamplingParams(temperature=3.0, top_k=4), seed=slot)
    ids, sampled = world.sample(
        logits, range(6), [4] * 6, {SAMPLING, Feature.LOGPROBS}, top=5, padding=2
    )
    want = log_softmax(logits)
    check(sampled.logprobs is not None, "no logprobs, though they were asked for")
    check(sampled.top_ids is not None and sampled.top_logprobs is not None, "no top logprobs")
    assert sampled.logprobs is not None
    assert sampled.top_ids is not None
    assert sampled.top_logprobs is not None
    got = sampled.logprobs.float().cpu().numpy()[:6]
    top_ids = sampled.top_ids.cpu().numpy()[:6]
    top = sampled.top_logprobs.float().cpu().numpy()[:6]
    rows = np.arange(6)
    check(np.allclose(got, want[rows, ids], atol=1e-4), f"logprobs {got}, want {want[rows, ids]}")
    check(top.shape == (6, 5), f"five alternatives were asked for, the shape is {top.shape}")
    best = -np.sort(-want, axis=1)[:, :5]
    check(np.allclose(top, best, atol=1e-4), "top logprobs are not the five largest")
    check(
        np.allclose(want[rows[:, None], top_ids], top, atol=1e-4), "top ids do not match logprobs"
    )


def _logprobs_before_penalties(target: Target) -> None:
    """Log-probabilities are the model's, before bias, penalties, mask and temperature."""
    world, logits = _world(target), _logits(2, seed=38)
    params = SamplingParams(
        temperature=0.0, presence_penalty=2.0, logit_bias=((4, 60.0),), repetition_penalty=2.0
    )
    for slot in (0, 1):
        world.admit(slot, params, prompt=[1, 2, 3])
    mask = np.full((2, -(-VOCAB // 32)), -1, np.int32)
    features = {PENALTIES, BIAS, Feature.LOGPROBS, Feature.MASK}
    ids, sampled = world.sample(logits, [0, 1], [3, 3], features, mask=mask)
    assert sampled.logprobs is not None
    got, want = sampled.logprobs.float().cpu().numpy(), log_softmax(logits)[[0, 1], ids]
    check(np.allclose(got, want, atol=1e-4), f"logprobs {got}; the model's own are {want}")
