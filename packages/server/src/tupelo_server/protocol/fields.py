"""What every kind of body shares: strict types, refusals by name, and the sampling fields.

Types are pydantic's, strict, unknown fields refused. Numeric bounds are not checked here but in
``tupelo.request``, the one table of them. An explicit null means the default.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from tupelo.errors import InvalidRequest, RequestError
from tupelo.request import MAX_PROMPTS, SamplingParams
from tupelo_server.wire import stop_at_first_error, validate

Texts = str | Annotated[list[str], Field(max_length=MAX_PROMPTS)]
"""One text or several."""
Ids = list[int] | Annotated[list[list[int]], Field(max_length=MAX_PROMPTS)]
"""Token ids of one prompt or of several."""

Tolerated = Mapping[str, tuple[Any, ...]]
"""Fields that are known and not supported, with the values of each that ask for nothing."""

ANY: tuple[Any, ...] = (object,)
"""In a table of tolerated values: every value."""

_GRAMMAR = ("regex", "ebnf", "json_schema", "structural_tag", "stop_regex", "guided_json")
_LATER = (
    *_GRAMMAR, "lora_path", "session_id", "session_params", "custom_params",
    "custom_logit_processor", "data_parallel_rank", "routed_dp_rank", "return_hidden_states",
    "return_routed_experts", "return_token_ids", "return_prompt_token_ids", "return_meta_info",
    "return_cached_tokens_details", "mm_processor_kwargs", "images_config", "video_config",
    "bootstrap_host", "bootstrap_port", "bootstrap_room", "beam_width", "use_beam_search",
    "watermark", "token_ids_logprob", "max_thinking_tokens", "require_reasoning",
    "return_entropy", "return_sampling_mask", "input_embeds", "image_data", "video_data",
    "audio_data",
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
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    rid: str | None = None
    cache_salt: str | None = None
    extra_key: str | None = None
    priority: int | None = Field(default=None, description="needs the priority policy")

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
    def salt(self) -> str:
        """The cache namespace.

        Raises:
            InvalidRequest: both of its names are given.
        """
        return one_salt(self.cache_salt, self.extra_key)

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
    """Errors about fields of core name them as the client does."""
    try:
        yield
    except RequestError as error:
        core = error.param
        if core is not None and core in names:
            error.args = (str(error).replace(core, names[core]),)
            error.param = names[core]
        raise


def documents(model: type[Body]) -> dict[str, Any]:
    """What the OpenAPI document says of a route that takes this body."""
    schema = model.model_json_schema()
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
    "repetition_penalty", "logit_bias", "seed", "stop", "stop_token_ids", "min_tokens",
    "ignore_eos", "no_stop_trim", "skip_special_tokens", "spaces_between_special_tokens",
)  # fmt: skip
_CORE_NAMES = {"min_tokens": "min_new_tokens"}
