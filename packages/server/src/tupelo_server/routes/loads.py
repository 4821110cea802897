"""How loaded the engine is, for balancers: ``/v1/loads``, and ``/get_load`` as older ones ask."""

import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from tupelo.engine.messages import EngineInfo
from tupelo.errors import InvalidRequest
from tupelo_server import __version__
from tupelo_server.state import frontend_of
from tupelo_server.wire import JsonResponse

router = APIRouter()

SECTIONS = ("core", "memory", "spec", "lora", "disagg", "queues", "all")
"""What may be asked for; what this server has not (speculation, adapters, transfer) is left out."""

_GIB = 1 << 30


@router.get("/v1/loads")
async def loads(request: Request) -> Response:
    """The load of each data-parallel rank. ``?include=core,memory,queues``, ``?dp_rank=0``,
    ``?format=prometheus``."""
    query = request.query_params
    sections = _sections(query.get("include", "all"))
    if query.get("dp_rank", "0") != "0":
        raise InvalidRequest(
            f"dp_rank: got {query['dp_rank']!r:.20}; this server has rank 0", param="dp_rank"
        )
    kind = query.get("format", "json")
    if kind not in ("json", "prometheus"):
        raise InvalidRequest(f"format: got {kind!r:.20}; allowed: json, prometheus", param="format")
    frontend = frontend_of(request)
    load = describe_load(await frontend.engine.control("stats"), frontend.info, sections)
    if kind == "prometheus":
        return PlainTextResponse(_prometheus(load))
    return JsonResponse(
        {
            "timestamp": datetime.now(UTC).isoformat(),
            "version": __version__,
            "accelerator": frontend.info.backend,
            "num_accelerators": 1,
            "loads": [load],
        }
    )


@router.get("/get_load")
async def get_load(request: Request) -> Response:
    """A list with the load of each data-parallel rank."""
    frontend = frontend_of(request)
    load = describe_load(await frontend.engine.control("stats"), frontend.info, {"core"})
    return JsonResponse(
        [
            {
                "dp_rank": 0,
                "num_reqs": load["num_total_reqs"],
                "num_waiting_reqs": load["num_waiting_reqs"],
                "num_tokens": load["num_used_tokens"],
                "ts_tic": time.time(),
            }
        ]
    )


def describe_load(stats: dict[str, Any], info: EngineInfo, sections: set[str]) -> dict[str, Any]:
    """The engine's counters and gauges in SGLang's words, as nested sections beside the core."""
    running, waiting = stats["num_running"], stats["num_waiting"]
    # A model that stores nothing of its inputs has no pages.
    owned, pages = (next(iter(stats[name]), 0) for name in ("pages_owned", "pages_total"))
    used = owned * stats["page_size"]
    looked_up = stats.get("lookup_tokens", 0)
    load: dict[str, Any] = {
        "timestamp": time.time(),
        "dp_rank": 0,
        "num_running_reqs": running,
        "num_waiting_reqs": waiting,
        "num_total_reqs": running + waiting,
        "num_used_tokens": used,
        "num_total_tokens": used,
        "max_total_num_tokens": info.max_total_tokens,
        "max_running_requests": info.max_running_requests,
        "token_usage": owned / max(pages, 1),
        "cache_hit_rate": stats.get("hit_tokens", 0) / looked_up if looked_up else 0.0,
        "utilization": running / max(info.max_running_requests, 1),
    }
    if sections & {"memory", "all"}:
        load["memory"] = {
            "weight_gb": info.memory.get("weight_bytes", 0) / _GIB,
            "kv_cache_gb": info.memory.get("kv_bytes", 0) / _GIB,
            "token_capacity": info.max_total_tokens,
        }
    if sections & {"queues", "all"}:
        load["queues"] = {
            "waiting": waiting,
            "paused": running + waiting if stats.get("paused") else 0,
            "retracted": stats["retractions"],
        }
    return load


def _sections(text: str) -> set[str]:
    found = {part.strip() for part in text.split(",")}
    unknown = sorted(found - set(SECTIONS))
    if unknown:
        raise InvalidRequest(
            f"include: got {unknown[0]!r:.40}; allowed: {', '.join(SECTIONS)}", param="include"
        )
    return found


def _prometheus(load: dict[str, Any]) -> str:
    """A gauge for each number."""
    flat = {
        (f"{section}_{name}" if section else name): value
        for section, values in [("", load), *((k, v) for k, v in load.items() if type(v) is dict)]
        for name, value in values.items()
        if type(value) is not dict
    }
    rank = flat.pop("dp_rank")
    lines = []
    for name, value in flat.items():
        lines += [f"# TYPE sglang_{name} gauge", f'sglang_{name}{{dp_rank="{rank}"}} {value}']
    return "\n".join(lines) + "\n"
