"""One thread: where other work runs, two threads of a small product wait for one another.

And transformers' reading of the demo model, which takes long enough to be shared.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smollm2(demo_gguf: Path) -> PreTrainedModel:
    """transformers' own reading of the demo model, in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the gguf package, about numpy
        return AutoModelForCausalLM.from_pretrained(
            demo_gguf.parent, gguf_file=demo_gguf.name, dtype=torch.float32
        ).eval()
