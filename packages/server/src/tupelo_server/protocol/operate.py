"""Bodies of the operators' routes."""

from typing import Any, ClassVar

from pydantic import Field

from tupelo_server.protocol.fields import ANY, Body, Tolerated


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
