"""Bodies of the operators' routes."""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from pydantic import Field

from tupelo.checkpoint.roots import inside_roots, split_roots
from tupelo.errors import ConfigError, InvalidRequest
from tupelo.request import check_float
from tupelo.text.detect import named_reasoning, named_tools
from tupelo_server.loader import ModelOptions
from tupelo_server.protocol.fields import ANY, Body, Tolerated

_ENGINE_OPTIONS = ("served_model_name", "load_format", "task", "dtype", "context_length")
"""Fields of ``/load_model`` that are options of the engine."""

_MAX_DRAIN_S = 86_400.0


class PauseBody(Body):
    """``/pause_generation``. ``mode``: abort, retract or in_place."""

    unsupported: ClassVar[Tolerated] = {}

    mode: str = "abort"


class ContinueBody(Body):
    """``/continue_generation``. Memory that is free was given back when it became so."""

    unsupported: ClassVar[Tolerated] = {"torch_empty_cache": ANY}


class UpdateWeightsBody(Body):
    """``/update_weights_from_disk``. The prefix cache is always emptied: its K/V are of the old
    weights."""

    unsupported: ClassVar[Tolerated] = {
        "torch_empty_cache": ANY,
        "token_step": ANY,
        "load_format": ("auto", "safetensors"),
        "is_async": (),
        "manifest": (),
    }

    model_path: str
    abort_all_requests: bool = False
    weight_version: str | None = Field(default=None, max_length=256)
    keep_pause: bool = False
    flush_cache: bool = True


class _DrainingBody(Body):
    """What takes the model away from requests that run."""

    unsupported: ClassVar[Tolerated] = {}

    drain_timeout_s: float | None = Field(default=None, strict=False)

    def drain_s(self, default: float) -> float:
        """Seconds that they may take to end.

        Raises:
            InvalidRequest: a number out of bounds.
        """
        if self.drain_timeout_s is None:
            return default
        return check_float("drain_timeout_s", self.drain_timeout_s, 0.0, _MAX_DRAIN_S)


class LoadModelBody(_DrainingBody):
    """``/load_model``. Without ``model_path`` it is the model that the server was started for, with
    the options that this was given. With it, what is not given here is as by default, and all that
    is no field here as the server was started.

    ``chat_template``: its source. ``drain_timeout_s``: seconds that requests of the old model may
    take to end; by default those of ``--shutdown-timeout-s``.
    """

    unsupported: ClassVar[Tolerated] = {}

    model_path: str | None = Field(default=None, min_length=1)
    tokenizer_path: str = ""
    served_model_name: str = Field(default="", max_length=256)
    load_format: str = "auto"
    task: str = "auto"
    dtype: str = "auto"
    context_length: int = 0
    chat_template: str | None = Field(default=None, min_length=1)
    tool_call_parser: str = "auto"
    reasoning_parser: str = "auto"
    weight_version: str = Field(default="default", max_length=256)

    def options(self, first: ModelOptions) -> ModelOptions:
        """What is to be loaded, on a server that was started for ``first``.

        Raises:
            InvalidRequest: a path outside the allowed folders, an option's value that is none, or
                options for a model whose options are given already.
        """
        given = self.model_fields_set - {"model_path", "drain_timeout_s"}
        if self.model_path is None:
            if given:
                name = min(given)
                raise InvalidRequest(f"{name}: needs model_path beside it", param=name)
            return first
        values = {name: getattr(self, name) for name in _ENGINE_OPTIONS}
        allowed = partial(
            inside_roots, roots=split_roots(first.engine.weight_roots), option="--weight-roots"
        )
        values["model"] = str(allowed(self.model_path, param="model_path"))
        values["tokenizer"] = (
            str(allowed(self.tokenizer_path, param="tokenizer_path")) if self.tokenizer_path else ""
        )
        try:
            if self.tool_call_parser not in ("auto", "none"):
                named_tools(self.tool_call_parser)
            if self.reasoning_parser not in ("auto", "none"):
                named_reasoning(self.reasoning_parser)
            engine = replace(first.engine, revision="", **values)
        except ConfigError as error:
            raise InvalidRequest(str(error)) from None
        return ModelOptions(
            engine=engine,
            chat_template=self.chat_template,
            tool_call_parser=self.tool_call_parser,
            reasoning_parser=self.reasoning_parser,
            weight_version=self.weight_version,
        )


class UnloadModelBody(_DrainingBody):
    """``/unload_model``. ``drain_timeout_s``: as for ``/load_model``."""

    unsupported: ClassVar[Tolerated] = {}


class WeightVersionBody(Body):
    """``/update_weight_version``."""

    unsupported: ClassVar[Tolerated] = {}

    new_version: str = Field(max_length=256)
    abort_all_requests: bool = False


class MemoryBody(Body):
    """``/release_memory_occupation`` and its counterpart; no tags means all."""

    unsupported: ClassVar[Tolerated] = {}

    tags: list[str] | None = None


class ProfileBody(Body):
    """``/start_profile``."""

    unsupported: ClassVar[Tolerated] = {
        "profile_by_stage": (),
        "profile_stages": (),
        "merge_profiles": (),
        "profile_id": ANY,
    }

    output_dir: str = ""
    start_step: int | None = None
    num_steps: int | None = None
    activities: list[str] | None = None
    with_stack: bool = False
    record_shapes: bool = False
    profile_prefix: str = "profile"

    def options(self) -> dict[str, Any]:
        """The arguments of the engine's ``start_profile``."""
        values = self.model_dump(exclude_unset=True)
        if "profile_prefix" in values:
            values["prefix"] = values.pop("profile_prefix")
        return values


class LoggingBody(Body):
    """``/configure_logging``. Requests are not dumped to files."""

    unsupported: ClassVar[Tolerated] = {
        "log_requests_format": (),
        "dump_requests_folder": (),
        "dump_requests_threshold": (),
        "crash_dump_folder": (),
    }

    log_requests: bool | None = None
    log_requests_level: int | None = None
    log_level: str | None = None
