"""Bodies of the routes that end in numbers: embeddings, ranking, classification, scoring."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_INT32, MAX_PROMPTS, check_float, check_int
from tupelo_server.protocol.fields import ANY, Body, Ids, Texts, Tolerated

_LATER: Mapping[str, tuple[Any, ...]] = dict.fromkeys(
    (
        "lora_path", "image_data", "video_data", "audio_data", "embed_override_token_id",
        "embed_overrides", "query_embed_overrides", "item_embed_overrides", "input_embeds",
        "return_pooled_hidden_states", "score_extraction_token", "modalities", "background",
        "sampling_params", "session_params",
    ),
    (),
)  # fmt: skip


class PooledBody(Body):
    """What all of them share.

    ``truncate_prompt_tokens``: cut longer texts to this many tokens at their end, special tokens
    counted; -1 means what the model takes. Without it longer texts are refused.
    """

    unsupported: ClassVar[Tolerated] = {**_LATER, "user": ANY, "routing_key": ANY}

    model: str = ""
    rid: Texts | None = None
    priority: int | None = None
    truncate_prompt_tokens: int | None = None

    def limit(self, longest: int) -> int:
        """Tokens to cut texts to; 0 for no cut.

        Args:
            longest: what the model takes.

        Raises:
            InvalidRequest: out of its bounds.
        """
        given = self.truncate_prompt_tokens
        if given is None:
            return 0
        check_int("truncate_prompt_tokens", given, -1, MAX_INT32)
        if given == 0:
            raise InvalidRequest(
                "truncate_prompt_tokens: got 0; must be -1 or at least 1",
                param="truncate_prompt_tokens",
            )
        return longest if given == -1 else min(given, longest)


class EmbeddingsBody(PooledBody):
    """``/v1/embeddings``. ``input``: a text, a list of texts, ids, or a list of lists of ids."""

    input: Texts | Ids
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class ClassifyBody(PooledBody):
    """``/v1/classify``. ``input`` as that of ``/v1/embeddings``."""

    input: Texts | Ids


class RerankBody(PooledBody):
    """``/v1/rerank``."""

    query: str
    documents: list[str] = Field(min_length=1, max_length=MAX_PROMPTS)
    instruct: str | None = None
    top_n: int | None = None
    return_documents: bool = True

    def num_returned(self) -> int:
        """How many documents are returned, the best ones.

        Raises:
            InvalidRequest: ``top_n`` is below 1.
        """
        if self.top_n is None:
            return len(self.documents)
        return check_int("top_n", self.top_n, 1, MAX_INT32)


class ScoreBody(PooledBody):
    """``/v1/score``: how probable each label is as the token after query and item.

    ``label_token_ids``: ids for all items, or a list for each. A classifier has classes instead.
    """

    query: str | list[int]
    items: (
        str
        | Annotated[list[str], Field(max_length=MAX_PROMPTS)]
        | Annotated[list[list[int]], Field(max_length=MAX_PROMPTS)]
    )
    label_token_ids: Ids | None = None
    apply_softmax: bool = False
    temperature: float = 1.0
    item_first: bool = False
    return_token_logprobs: bool = False

    def prompts(self) -> list[str] | list[tuple[int, ...]]:
        """Query and item together, for each item, as text or as ids.

        Raises:
            InvalidRequest: one is text, the other ids.
        """
        items = [self.items] if isinstance(self.items, str) else self.items
        texts = [item for item in items if isinstance(item, str)]
        if isinstance(self.query, str) and len(texts) == len(items):
            return [f"{t}{self.query}" if self.item_first else f"{self.query}{t}" for t in texts]
        ids = [item for item in items if not isinstance(item, str)]
        if isinstance(self.query, str) or len(ids) != len(items):
            raise InvalidRequest("query and items must both be text, or both ids", param="items")
        query = self.query
        return [tuple([*item, *query] if self.item_first else [*query, *item]) for item in ids]

    def pairs(self) -> list[tuple[str, str]]:
        """Query and item of each item, as a model that ranks takes them; all of them texts."""
        items = [self.items] if isinstance(self.items, str) else self.items
        found = [(str(self.query), item) for item in items if isinstance(item, str)]
        return [(b, a) for a, b in found] if self.item_first else found

    def labels(self, count: int) -> list[tuple[int, ...]]:
        """The label ids of each of ``count`` items.

        Raises:
            InvalidRequest: none, or a list of another length.
        """
        given = self.label_token_ids
        if not given:
            raise InvalidRequest(
                "label_token_ids: a model that generates scores the ids of labels; give them",
                param="label_token_ids",
            )
        lists: list[Any] = given if isinstance(given[0], list) else [given] * count
        if len(lists) != count or not all(lists):
            raise InvalidRequest(
                f"label_token_ids: got {len(lists)} lists for {count} items, none of which may be "
                "empty",
                param="label_token_ids",
            )
        return [tuple(ids) for ids in lists]

    def heat(self) -> float:
        """The temperature of the softmax.

        Raises:
            InvalidRequest: out of its bounds, or there is no softmax.
        """
        check_float("temperature", self.temperature, 0.0, 1e4, open_low=True)
        if self.temperature != 1.0 and not self.apply_softmax:
            raise InvalidRequest("temperature needs apply_softmax to be true", param="temperature")
        return self.temperature


class EncodeBody(PooledBody):
    """Native ``/encode`` and ``/classify``.

    With ``is_cross_encoder_request``, ``text`` is a pair of texts, or a list of pairs.

    ``output``: a further output of the model instead of its usual one: ``sparse`` or ``colbert``.
    ``step_tag_id``: of a model that judges tokens, only those of this id, such as the mark after
    each step of a solution.
    """

    text: str | Annotated[list[Any], Field(max_length=MAX_PROMPTS)] | None = None
    input_ids: Ids | None = None
    dimensions: int | None = None
    is_cross_encoder_request: bool = False
    output: str = ""
    step_tag_id: int | None = None

    @property
    def single(self) -> bool:
        """Whether one text was sent, not a list of them."""
        if self.text is not None:
            return isinstance(self.text, str) or self._one_pair
        return bool(self.input_ids) and isinstance((self.input_ids or [0])[0], int)

    @property
    def _one_pair(self) -> bool:
        pair = self.is_cross_encoder_request and isinstance(self.text, list)
        return pair and all(isinstance(item, str) for item in self.text or ())

    def inputs(self) -> Any:
        """``text`` or ``input_ids``, whichever is given.

        Raises:
            InvalidRequest: not exactly one of the two.
        """
        if (self.text is None) == (self.input_ids is None):
            raise InvalidRequest("give exactly one of text and input_ids", param="text")
        return self.input_ids if self.text is None else self.text

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs of texts of a request for a cross-encoder.

        Raises:
            InvalidRequest: something else.
        """
        given: Any = [self.text] if self._one_pair else self.text
        fits = isinstance(given, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
            for pair in given
        )
        if not fits or not given:
            raise InvalidRequest(
                "text: a request for a cross-encoder has a pair of texts, or a list of pairs",
                param="text",
            )
        return [(first, second) for first, second in given]
