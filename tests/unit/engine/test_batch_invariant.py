"""``batch_invariant``: kept bit for bit where a backend has it, refused at start where not."""

from typing import Any

import pytest
from tests.unit.engine.tiny import VOCAB, tiny_engine

from tupelo.backend import Backend, Capabilities, find_backend
from tupelo.errors import CapabilityError

CPU = find_backend("cpu")
WITH_KERNELS = pytest.mark.skipif(
    not CPU.capabilities.batch_invariant, reason="no compiler here, so no native kernels"
)


def test_a_backend_without_it_refuses_to_start() -> None:
    plain = Backend(
        name="plain", device="cpu", capabilities=Capabilities(plan_needs_host_lens=True)
    )
    with pytest.raises(CapabilityError, match=r"--batch-invariant: backend 'plain' .* no type"):
        tiny_engine(plain, batch_invariant=True)


@WITH_KERNELS
@pytest.mark.parametrize("option", ["dtype", "kv_cache_dtype"])
def test_a_type_without_it_refuses_to_start(option: str) -> None:
    with pytest.raises(CapabilityError, match=r"not batch-invariant in .*bfloat16.* in: float32"):
        tiny_engine(batch_invariant=True, **{"dtype": "float32", option: "bfloat16"})


@WITH_KERNELS
def test_every_bit_is_the_same_among_many_others() -> None:
    """Two prompts alone, then in the midst of thirty of other lengths and kinds."""
    chosen = {"seed": 3, "temperature": 1.1, "max_new_tokens": 20, "ignore_eos": True}
    ours = [[(7 * i + k) % VOCAB for i in range(9 + 30 * k)] for k in range(2)]
    crowd = [[(11 * i + k) % VOCAB for i in range(1 + 5 * k)] for k in range(30)]
    others: list[dict[str, Any]] = [
        {"temperature": 0, "max_new_tokens": k, "ignore_eos": True, "top_k": 1 + k}
        for k in range(30)
    ]
    wanted: dict[str, Any] = {"return_logprob": True, "top_logprobs_num": 4}
    with tiny_engine(batch_invariant=True, chunked_prefill_size=32) as engine:
        alone = [engine.generate(input_ids=ids, sampling_params=chosen, **wanted) for ids in ours]
        among = engine.generate(
            input_ids=[ours[0], *crowd, ours[1]],
            sampling_params=[chosen, *others, chosen],
            **wanted,
        )
    for a, b in zip(alone, (among[0], among[-1]), strict=True):
        for field in ("output_token_logprobs", "output_top_logprobs"):
            assert a["meta_info"][field] == b["meta_info"][field]
            assert len(a["meta_info"][field]) == 20
