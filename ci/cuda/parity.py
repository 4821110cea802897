#!/usr/bin/env python3
"""Every family's tiny checkpoint on the GPU: float32 tokens equal the CPU's, bfloat16 is as close
to float32 as the CPU's bfloat16 is. Where experts are chosen, either rounding sends some tokens to
others, which are far off then: the usual token's distance counts there.

  parity.py REPORT.json [--share 2/4]      with --share, every fourth from the second on
"""

import argparse
import json
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import tupelo_cuda
from tests.parity.families import FAMILIES, VOCAB_SIZE, Family

from tupelo.backend import Backend, Capabilities
from tupelo.engine import Engine

NEW_TOKENS = 16
MAX_TOTAL_TOKENS = 4096
"""Several processes fit on one device."""

TIE = 5e-4
"""A token may differ where the reference's two best log-probabilities are closer than this."""

ROUNDING = 1.5
"""Most that bfloat16 may be further from float32 than the CPU's, in root mean square or, with
experts, in the median."""

CPU = Backend(
    name="reference",
    device="cpu",
    capabilities=Capabilities(
        dtypes=("float32", "bfloat16"),
        chunked=True,
        sinks=True,
        latent_kv=True,
        plan_needs_host_lens=True,
        same_step_sharing=True,
    ),
)


def prompts(family: Family) -> list[list[int]]:
    """Of the family's lengths, as far as its context reaches."""
    random = np.random.default_rng(3)
    most = family.fields.get("max_position_embeddings", 256) - NEW_TOKENS
    return [random.integers(3, VOCAB_SIZE, min(n, most)).tolist() for n in family.lengths]


def replies(backend: Backend, folder: Path, dtype: str, family: Family) -> list[dict[str, Any]]:
    """Greedy, scored from the first prompt token on."""
    params = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    with Engine(
        model=str(folder),
        backend=backend,
        dtype=dtype,
        max_running_requests=8,
        max_total_tokens=MAX_TOTAL_TOKENS,
        chunked_prefill_size=48,
        disable_radix_cache=True,
    ) as engine:
        return list(
            engine.generate(
                input_ids=prompts(family),
                sampling_params=params,
                return_logprob=True,
                logprob_start_len=0,
                top_logprobs_num=2,
            )
        )


def prompt_scores(got: list[dict[str, Any]]) -> np.ndarray:
    """Log-probabilities of all prompt tokens."""
    rows = [row[0] for r in got for row in r["meta_info"]["input_token_logprobs"]]
    return np.array([value for value in rows if value is not None])


def differing(got: list[dict[str, Any]], want: list[dict[str, Any]]) -> list[str]:
    """Places where a token differs though the reference is sure of it."""
    found = []
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        for place, (x, y) in enumerate(zip(a["output_ids"], b["output_ids"], strict=True)):
            if x != y:
                best, second = b["meta_info"]["output_top_logprobs"][place][:2]
                if best[1] - second[1] >= TIE:
                    found.append(f"prompt {index} token {place}: {x} for {y}")
                break
    return found


def distance(x: np.ndarray, family: Family) -> float:
    """Root mean square or, where experts are chosen, median."""
    routed = "expert" in str(family.fields)  # a text model's may lie one level deeper
    return float(np.median(np.abs(x)) if routed else np.sqrt(np.mean(x * x)))


def check_family(family: Family, gpu: Backend) -> dict[str, Any]:
    """One family's figures; ``ok`` says whether they are within bounds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        family.save(folder)
        want = replies(CPU, folder, "float32", family)
        exact = replies(gpu, folder, "float32", family)
        rounded = replies(gpu, folder, "bfloat16", family)
        theirs = replies(CPU, folder, "bfloat16", family)
    scores = prompt_scores(want)
    wrong = differing(exact, want)
    ours = distance(prompt_scores(rounded) - scores, family)
    bound = distance(prompt_scores(theirs) - scores, family)
    largest = float(np.abs(prompt_scores(exact) - scores).max())
    return {
        "ok": not wrong and largest < 1e-3 and ours <= ROUNDING * bound,
        "differing": wrong,
        "float32_largest": largest,
        "bfloat16_off": ours,
        "cpu_bfloat16_off": bound,
    }


def main() -> int:
    """The families asked for; 1 if any is out of bounds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--share", default="1/1", help="K/N: every Nth from the Kth on")
    args = parser.parse_args()
    which, of = map(int, args.share.split("/"))
    gpu = tupelo_cuda.backend()
    assert isinstance(gpu, Backend), gpu
    results: dict[str, Any] = {}
    for family in FAMILIES[which - 1 :: of]:
        try:
            results[family.id] = check_family(family, gpu)
        except Exception:  # the other families still run
            results[family.id] = {"ok": False, "failed": traceback.format_exc()}
        print(family.id, json.dumps(results[family.id]), flush=True)
        args.report.write_text(json.dumps(results, indent=1))
    return 0 if all(result["ok"] for result in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
