"""What every kind of body shares: strict types, refusals by name, and the sampling fields.

Types are pydantic's, strict, unknown fields refused. Numeric bounds are not checked here but in
``tupelo.request``, the one table of them. An explicit null means the default.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from tupelo.errors import InvalidRequest, RequestError
from tupelo.request import MAX_PROMPTS, Grammar, SamplingParams
from tupelo_server.protocol.grammar import GRAMMAR_FIELDS, grammar_of
from tupelo_server.protocol.schemas import bounded
from tupelo_server.wire import stop_at_first_error, validate

Texts = str | Annotated[list[str], Field(max_length=MAX_PROMPTS)]
"""One text or several."""
Ids = list[int] | Annotated[list[list[int]], Field(max_length=MAX_PROMPTS)]
"""Token ids of one prompt or of several."""

Tolerated = Mapping[str, tuple[Any, ...]]
"""Fields that are known and not supported, with the values of each that ask for nothing."""

ANY: tuple[Any, ...] = (object,)
"""In a table of tolerated values: every value."""

_LATER = (
    "audio_data", "beam_width", "bootstrap_host", "bootstrap_pair_key", "bootstrap_port",
    "bootstrap_room", "conversation_id", "custom_labels", "custom_logit_processor",
    "custom_params", "data_parallel_rank", "disagg_prefill_dp_rank", "image_data",
    "images_config", "input_embeds", "kv_hints", "lora_path", "max_dynamic_patch",
    "min_dynamic_patch", "mm_processor_kwargs", "require_reasoning", "return_bytes",
    "return_entropy", "return_flat_raw_output_top_logprobs", "return_flat_raw_top_logprobs_b64",
    "return_hidden_states", "return_indexer_topk", "return_routed_experts",
    "return_sampling_mask", "return_spec_tokens_details", "routed_dp_rank",
    "routed_experts_start_len", "sampling_logprobs_mode", "session_id", "use_audio_in_video",
    "use_beam_search", "video_config", "video_data", "watermark",
)  # fmt: skip

COMMON_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = dict.fromkeys(_LATER, ())
"""Known fields without an implementation, each with the values that ask for nothing. Null, false,
empty and zero always ask for nothing."""


def screen(values: dict[str, Any], unsupported: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """``values`` without nulls and without known fields that ask for nothing.

    Raises:
        InvalidRequest: a field asks for something that this server does not do.
    """
    kept = {}
    for name, value in values.items():
        if value is None:
            continue
        if name not in unsupported:
            kept[name] = value
        elif value and unsupported[name] is not ANY and value not in unsupported[name]:
            raise InvalidRequest(
                f"{name} is not supported by this server", param=name, code="unsupported_parameter"
            )
    return kept


class Body(BaseModel):
    """A request body with strict types and no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = COMMON_UNSUPPORTED

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check an untrusted object.

        Raises:
            SchemaError: a wrong type, or an unknown or missing field.
            InvalidRequest: a field that this server does not support.
        """
        return validate(cls, screen(values, cls.unsupported))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: CoreSchema = stop_at_first_error(handler(source))
        return schema


class StreamOptions(Body):
    """OpenAI's ``stream_options``."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"include_obfuscation": ANY}

    include_usage: bool = False
    continuous_usage_stats: bool = False


class SamplingBody(Body):
    """The fields of OpenAI's bodies, and SGLang's additions, that both completions share."""

    model: str = ""
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"additionalProperties": {"type": "number"}}
    )
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_regex: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    response_format: dict[str, Any] | None = None
    json_schema: str | dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    structural_tag: str | dict[str, Any] | None = None
    choice: list[str] | None = None
    rid: Texts | None = None
    cache_salt: Texts | None = None
    extra_key: Texts | None = None
    priority: int | None = Field(default=None, description="needs the priority policy")
    return_token_ids: bool = False
    return_cached_tokens_details: bool = False

    @property
    def options(self) -> StreamOptions:
        """``stream_options``, checked.

        Raises:
            InvalidRequest: they are given although nothing is streamed, or wrong.
        """
        if self.stream_options is None:
            return StreamOptions()
        if not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        return StreamOptions.parse(self.stream_options)

    @property
    def grammar(self) -> Grammar | None:
        """What the output must look like.

        Raises:
            InvalidRequest: several fields say it, or one says it wrongly.
        """
        fields = {name: getattr(self, name) for name in GRAMMAR_FIELDS}
        return grammar_of(fields, self.response_format)

    def salts(self, count: int) -> list[str]:
        """The cache namespace of each of ``count`` prompts.

        Raises:
            InvalidRequest: both of its names are given, or a list of another length.
        """
        given = each("cache_salt", self.cache_salt, count), each("extra_key", self.extra_key, count)
        return [one_salt(salt, key) for salt, key in zip(*given, strict=True)]

    def rids(self, reply_id: str, count: int) -> list[str]:
        """The id that the client may abort each of ``count`` prompts by: its own, or the reply's.

        Raises:
            InvalidRequest: a list of another length.
        """
        return [rid or reply_id for rid in each("rid", self.rid, count)]

    def sampling(
        self,
        max_tokens: tuple[str, int | None],
        defaults: Mapping[str, float],
        vocab_size: int,
    ) -> SamplingParams:
        """The sampling parameters.

        Args:
            max_tokens: the field's name and value. defaults: the model's own.

        Raises:
            InvalidRequest: a value out of its bounds, named as the client knows it.
        """
        values: dict[str, Any] = dict(model_defaults(defaults))
        for name in _SAMPLING:
            value = getattr(self, name)
            if value is not None:
                values[_CORE_NAMES.get(name, name)] = value
        values["max_new_tokens"] = max_tokens[1]
        names = {"max_new_tokens": max_tokens[0], "min_new_tokens": "min_tokens"}
        return checked_sampling(values, names, vocab_size)


def each(name: str, value: Any, count: int) -> list[Any]:
    """One value for each of ``count`` prompts, where a list in place of a value has one a prompt.

    Raises:
        InvalidRequest: a list of another length.
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(f"{name}: got a list of {len(value)} for {count} prompts", param=name)
    return value


def one_salt(cache_salt: str | None, extra_key: str | None) -> str:
    """The salt under either of its names.

    Raises:
        InvalidRequest: both are given.
    """
    if cache_salt and extra_key:
        raise InvalidRequest(
            "cache_salt and extra_key are two names of one thing; give one", param="extra_key"
        )
    return cache_salt or extra_key or ""


def checked_sampling(
    values: dict[str, Any], names: Mapping[str, str], vocab_size: int
) -> SamplingParams:
    """``SamplingParams.checked``, with errors that use the client's ``names`` of core's fields."""
    with client_names(names):
        return SamplingParams.checked(values, vocab_size=vocab_size)


@contextmanager
def client_names(names: Mapping[str, str]) -> Iterator[None]:
    """Errors about fields of core name them as the client does; in their text too, but for words
    that may stand there for themselves."""
    try:
        yield
    except RequestError as error:
        text = str(error)
        for core, name in names.items():
            pattern = rf"\b{core}\b" if "_" in core else rf"^{core}(?=:)"
            text = re.sub(pattern, name, text)
        error.args = (text,)
        error.param = names.get(error.param or "", error.param)
        raise


def documents(model: type[Body]) -> dict[str, Any]:
    """What the OpenAPI document says of a route that takes this body."""
    schema = bounded(model.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def model_defaults(defaults: Mapping[str, float]) -> dict[str, Any]:
    """The model's own sampling values, as ``SamplingParams`` wants them."""
    known = ("temperature", "top_p", "min_p", "repetition_penalty")
    values: dict[str, Any] = {name: defaults[name] for name in known if name in defaults}
    if "top_k" in defaults:
        values["top_k"] = int(defaults["top_k"]) or -1
    return values


def check_priority(priority: int | None, policy: str) -> int:
    """The priority, where it has an effect.

    Raises:
        InvalidRequest: the server does not schedule by priority.
    """
    if priority and policy != "priority":
        raise InvalidRequest(
            f"priority has no effect: the server's schedule policy is {policy!r}; "
            "start it with --schedule-policy priority, or leave the field out",
            param="priority",
        )
    return priority or 0


_SAMPLING = (
    "n", "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "logit_bias", "seed", "stop", "stop_regex", "stop_token_ids",
    "min_tokens", "ignore_eos", "no_stop_trim", "skip_special_tokens",
    "spaces_between_special_tokens",
)  # fmt: skip
_CORE_NAMES = {"min_tokens": "min_new_tokens"}
