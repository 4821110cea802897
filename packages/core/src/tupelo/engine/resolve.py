"""Options that were left to the backend: its capabilities decide them, and a log line says so."""

import logging
from dataclasses import replace
from typing import Any

from tupelo.backend import Backend
from tupelo.config import EngineConfig

logger = logging.getLogger(__name__)


def resolve(config: EngineConfig, backend: Backend) -> EngineConfig:
    """``config`` with every 0 that means "suits the backend" filled in; what was given stays.

    ``chunked_prefill_size`` may still be -1, whole prompts, and ``max_step_ms`` -1, no bound.
    """
    has = backend.capabilities
    suited: dict[str, Any] = {
        "max_running_requests": has.max_running,
        "chunked_prefill_size": has.chunk_tokens,
        "max_step_ms": 1e3 * has.step_s or -1.0,
        "mem_fraction_static": has.memory_fraction,
        "pipeline_depth": has.pipeline_depth,
    }
    chosen = {name: value for name, value in suited.items() if not getattr(config, name)}
    if chosen:
        said = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
        logger.info("chosen for backend %s: %s", backend.name, said)
    return replace(config, **chosen)
