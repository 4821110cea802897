"""What is made of vectors on the host, and which requests a model that pools takes."""

import numpy as np
import pytest

from tupelo.errors import InvalidRequest
from tupelo.pooling import (
    PoolingInfo,
    PoolingParams,
    PoolingTask,
    described,
    finish,
    scores,
)

ROWS = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 0.0]], np.float32)


def test_vectors_are_cut_then_normalised() -> None:
    assert finish(ROWS, PoolingParams()).tolist() == ROWS.tolist()
    short = finish(ROWS, PoolingParams(dimensions=2, normalize=True))
    assert short.dtype == np.float32
    np.testing.assert_allclose(short, [[0.6, 0.8], [0, 0]])
    whole = finish(ROWS, PoolingParams(normalize=True))
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), [1, 0], rtol=1e-6)


def test_scores() -> None:
    numbers = np.array([0.0, 2.0, -1000.0, 1000.0], np.float32)
    assert scores(numbers, "identity").tolist() == numbers.tolist()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(scores(numbers, "sigmoid"), [0.5, 0.880797, 0, 1], atol=1e-6)
    np.testing.assert_allclose(scores(numbers[:2], "softmax"), [0.119203, 0.880797], atol=1e-6)
    assert scores(numbers, "softmax").tolist() == [0, 0, 0, 1]


EMBEDDER = PoolingInfo(
    tasks=(PoolingTask.EMBED,),
    heads={"": 8, "sparse": 1},
    refused={"colbert": "colbert_linear.pt is pickled"},
    normalize=True,
    dimensions=(4, 8),
)
CLASSIFIER = PoolingInfo(tasks=(PoolingTask.CLASSIFY,), heads={"": 2}, labels=("a", "b"))


@pytest.mark.parametrize(
    ("info", "params", "named"),
    [
        (EMBEDDER, PoolingParams(dimensions=5), "one of 4, 8"),
        (EMBEDDER, PoolingParams(dimensions=-1), "dimensions"),
        (EMBEDDER, PoolingParams(head="colbert"), "is pickled"),
        (EMBEDDER, PoolingParams(head="lexical"), "no such output"),
        (EMBEDDER, PoolingParams(second=9), "second text"),
        (CLASSIFIER, PoolingParams(dimensions=1), "makes no embeddings"),
    ],
)
def test_what_a_model_has_not_is_refused(
    info: PoolingInfo, params: PoolingParams, named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        info.check(params, 9)


def test_what_it_has_is_taken() -> None:
    for dimensions in (0, 4, 8):
        EMBEDDER.check(PoolingParams(dimensions=dimensions, second=3), 9)
    any_size = PoolingInfo(tasks=(PoolingTask.EMBED,), heads={"": 8})
    any_size.check(PoolingParams(dimensions=5), 1)
    with pytest.raises(InvalidRequest, match="from 1 to 8"):
        any_size.check(PoolingParams(dimensions=9), 1)


def test_authors_decide_unless_asked() -> None:
    assert EMBEDDER.params().normalize
    assert not EMBEDDER.params(normalize=False).normalize
    assert not EMBEDDER.params(head="sparse").normalize
    assert not CLASSIFIER.params().normalize


def test_what_a_reply_says() -> None:
    rows = np.array([[0.5], [0.25], [0.75], [0.0]], np.float32)
    ids = (0, 7, 7, 9)
    weights = described(rows, "sparse", ids, {0}, per_token=False)
    assert weights == {"lexical_weights": {"7": 0.75}}
    late = described(rows, "colbert", ids, {0}, per_token=False)
    assert late == {"colbert_vecs": [[0.25], [0.75], [0.0]]}
    assert described(rows[:1], "", ids, (), per_token=False) == {"embedding": [0.5]}
    assert described(rows, "", ids, (), per_token=True)["embedding"] == rows.tolist()
    steps = described(rows, "", ids, (), per_token=True, only=7)
    assert steps == {"embedding": [[0.25], [0.75]]}
