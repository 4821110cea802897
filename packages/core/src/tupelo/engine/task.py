"""What a model is used for, as its files or ``--task`` say, and what requests may ask of it."""

from collections.abc import Mapping
from dataclasses import replace

from tupelo.checkpoint import HeadLayer, ModelConfig, PoolingConfig, PoolingHead
from tupelo.checkpoint.pooling import ENDINGS, embed_only, ranking, split_name
from tupelo.errors import ConfigError, InvalidRequest
from tupelo.pooling import PoolingInfo, PoolingKind, PoolingTask
from tupelo.request import Request
from tupelo.text.tokenizer import load_tokenizer

RANK_ANSWERS = ("no", "yes")
"""What a decoder that ranks says, each a single token."""


def for_task(shape: ModelConfig, task: str, tokenizer_path: str) -> ModelConfig:
    """The model's shape with what it pools for a task; ``"auto"`` leaves it as its files say.

    Raises:
        ConfigError: it cannot be used for that; the message says what it can be.
    """
    pooling = shape.pooling
    own = "generate" if pooling is None else pooling.task.value
    if task in ("auto", own):
        return shape
    _, ending = split_name(shape.architecture)
    if task == PoolingTask.EMBED:
        return replace(shape, pooling=embed_only(shape, pooling))
    decoder = shape.encoder is None and not shape.bidirectional and not ending
    if task == PoolingTask.RANK and decoder:
        return replace(shape, pooling=_ranking(shape, tokenizer_path))
    if task == "generate" and decoder:
        return replace(shape, pooling=None)
    if task == PoolingTask.RANK and pooling is not None and len(pooling.labels) == 1:
        return shape  # a classifier of one class ranks as it is
    endings = ", ".join(name for name, found in ENDINGS.items() if found is PoolingTask.CLASSIFY)
    raise ConfigError(
        f"--task {task}: {shape.architecture} is for {own}"
        + (f"; classifiers end in one of {endings}" if task == PoolingTask.CLASSIFY else "")
    )


def _ranking(shape: ModelConfig, tokenizer_path: str) -> PoolingConfig:
    """The rows of the output head that belong to the two answers.

    Raises:
        ConfigError: no tokenizer, an answer that is not one token, or a head of another kind.
    """
    if not tokenizer_path:
        raise ConfigError("--task rank: the model has no tokenizer, so its answers are unknown")
    if shape.logits_scale != 1.0 or shape.final_soft_cap is not None:
        raise ConfigError(f"--task rank: logits of {shape.architecture} are not supported")
    tokenizer = load_tokenizer(tokenizer_path)
    answers = [tokenizer.encode(word, add_special_tokens=False) for word in RANK_ANSWERS]
    if any(len(ids) != 1 for ids in answers):
        raise ConfigError(f"--task rank: one of {RANK_ANSWERS} is not a single token here")
    layout = shape.layout
    layer = HeadLayer(
        name=layout.embedding if shape.tie_word_embeddings else layout.head,
        in_features=shape.hidden_size,
        out_features=len(answers),
        bias=False,
        rows=tuple(ids[0] for ids in answers),
        num_rows=shape.vocab_size,
    )
    return ranking(layer, RANK_ANSWERS)


def pooling_info(shape: ModelConfig) -> PoolingInfo | None:
    """What a model pools, for whoever asks it; None if it generates."""
    pooling = shape.pooling
    if pooling is None:
        return None
    per_token = pooling.heads[""].kind is PoolingKind.TOKENS
    tasks = [pooling.task]
    if pooling.task is PoolingTask.CLASSIFY and len(pooling.labels) == 1 and not per_token:
        tasks.append(PoolingTask.RANK)
    return PoolingInfo(
        tasks=tuple(tasks),
        heads={name: _width(head, shape) for name, head in pooling.heads.items()},
        refused=dict(pooling.refused),
        normalize=pooling.normalize,
        dimensions=pooling.dimensions,
        labels=pooling.labels,
        activation=pooling.activation,
        max_length=pooling.max_length,
        per_token=per_token,
        template=pooling.template,
    )


def head_kinds(shape: ModelConfig) -> Mapping[str, PoolingKind]:
    """Which hidden states each head sees; empty of a model that generates."""
    heads = {} if shape.pooling is None else shape.pooling.heads
    return {name: head.kind for name, head in heads.items()}


def has_segments(shape: ModelConfig) -> bool:
    """Whether the model tells the two texts of a pair apart."""
    return shape.encoder is not None and shape.encoder.num_segments > 1


def check_purpose(request: Request, pooling: PoolingInfo | None) -> None:
    """Refuse a request that asks for text of a model that pools, or the other way round.

    Raises:
        InvalidRequest: says what the model does.
    """
    if pooling is None and request.pooling is not None:
        raise InvalidRequest(
            "this model generates text; it makes no embeddings, ranks nothing and classifies "
            "nothing. Serve an embedding, reranking or classification model for that",
            param="model",
        )
    if pooling is None:
        return
    if request.pooling is None:
        tasks = " and ".join(task.value for task in pooling.tasks)
        raise InvalidRequest(
            f"this model is for: {tasks}. It generates no text; serve another one for that",
            param="model",
        )
    pooling.check(request.pooling, len(request.input_ids))


def _width(head: PoolingHead, shape: ModelConfig) -> int:
    return head.layers[-1].out_features if head.layers else shape.hidden_size
