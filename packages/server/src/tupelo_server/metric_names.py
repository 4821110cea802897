"""Every metric of ``/metrics``, declared once: name, kind, labels, meaning.

Names that SGLang's dashboards expect have its prefix and its meaning; Tupelo's own begin with
``tupelo:``. Counters are listed without the ``_total`` that Prometheus adds. No label's values come
from clients.
"""

from typing import NamedTuple

MODEL = ("model_name",)
RANK = ("model_name", "engine_type", "tp_rank", "pp_rank", "dp_rank")
"""Labels of what one scheduler reports."""
ROUTE = ("endpoint", "method")


class Family(NamedTuple):
    """One metric: its kind (counter, gauge or histogram), meaning, and labels."""

    kind: str
    help: str
    labels: tuple[str, ...] = MODEL


SERVER: dict[str, Family] = {
    "sglang:num_requests": Family("counter", "samples asked for"),
    "sglang:num_aborted_requests": Family("counter", "samples that ended in an abort or an error"),
    "sglang:prompt_tokens": Family("counter", "prompt tokens received"),
    "sglang:generation_tokens": Family("counter", "tokens generated"),
    "sglang:cached_tokens": Family("counter", "prompt tokens that came from the prefix cache"),
    "sglang:cache_hit_rate": Family("gauge", "share of all prompt tokens from the cache", RANK),
    "sglang:gen_throughput": Family("gauge", "tokens a second, of the last 10 s", RANK),
    "sglang:time_to_first_token_seconds": Family("histogram", "arrival to first token"),
    "sglang:inter_token_latency_seconds": Family("histogram", "one token to the next"),
    "sglang:time_per_output_token_seconds": Family(
        "histogram", "mean time of a request's tokens after the first"
    ),
    "sglang:e2e_request_latency_seconds": Family("histogram", "arrival to end"),
    "sglang:queue_time_seconds": Family("histogram", "sent to the engine to first step"),
    "tupelo:prepare_time_seconds": Family(
        "histogram", "arrival to sent to the engine: reading, rendering, tokenizing"
    ),
    "tupelo:prefill_time_seconds": Family("histogram", "first step to first token"),
    "tupelo:decode_time_seconds": Family("histogram", "first token to end"),
    "sglang:prompt_tokens_histogram": Family("histogram", "prompt tokens of a request"),
    "sglang:generation_tokens_histogram": Family("histogram", "generated tokens of a request"),
    "sglang:http_requests": Family("counter", "HTTP requests, by route", ROUTE),
    "sglang:http_requests_active": Family("gauge", "HTTP requests being answered", ROUTE),
    "sglang:http_responses": Family("counter", "HTTP replies", (*ROUTE, "status_code")),
    "tupelo:engine_up": Family("gauge", "1 while the engine beats, 0 while it does not"),
    "tupelo:num_sessions": Family("gauge", "sessions that are open"),
    "tupelo:session_tokens": Family("gauge", "tokens that they hold, and 256 for each request"),
    "tupelo:messages_dropped": Family("counter", "messages that could not be read"),
}
"""What the server's process knows."""

SCHEDULER: dict[str, Family] = {
    "sglang:num_running_reqs": Family("gauge", "requests that run", RANK),
    "sglang:num_queue_reqs": Family("gauge", "requests that wait", RANK),
    "sglang:num_paused_reqs": Family("gauge", "requests held by a pause", RANK),
    "sglang:num_grammar_queue_reqs": Family(
        "gauge", "requests whose grammar is being compiled", RANK
    ),
    "sglang:max_total_num_tokens": Family("gauge", "tokens that the K/V pool holds", RANK),
    "sglang:num_used_tokens": Family("gauge", "tokens that running requests hold", RANK),
    "sglang:token_usage": Family("gauge", "share of the pool that they hold", RANK),
    "sglang:num_retracted_reqs": Family("gauge", "requests taken back, so far", RANK),
    "sglang:evicted_tokens": Family("counter", "tokens that left the prefix cache", RANK),
}
"""What dashboards show of an engine, worked out of its numbers."""

ENGINE: dict[str, Family] = {
    "steps": Family("counter", "steps of the engine"),
    "prefill_tokens": Family("counter", "prompt tokens computed"),
    "cached_tokens": Family("counter", "prompt tokens not computed, for the cache had them"),
    "decode_tokens": Family("counter", "tokens sampled"),
    "forced_tokens": Family("counter", "tokens that a grammar left no choice about"),
    "retractions": Family("counter", "requests that lost their pages to others"),
    "finished": Family("counter", "requests that ended by themselves"),
    "aborted": Family("counter", "requests that were aborted"),
    "waits": Family("counter", "times that a request waited for another's prefix"),
    "num_running": Family("gauge", "requests that run"),
    "num_waiting": Family("gauge", "requests that wait"),
    "paused": Family("gauge", "1 while an operator holds the engine"),
    "page_size": Family("gauge", "tokens of a page"),
    "pages_total": Family("gauge", "pages of the pool", (*MODEL, "group")),
    "pages_free": Family("gauge", "pages that hold nothing", (*MODEL, "group")),
    "pages_owned": Family("gauge", "pages of running requests", (*MODEL, "group")),
    "pages_cached": Family("gauge", "pages of the prefix tree", (*MODEL, "group")),
    "pages_available": Family("gauge", "pages that can be had at once", (*MODEL, "group")),
    "pages_evicted": Family("counter", "pages that left the tree", (*MODEL, "group")),
    "num_nodes": Family("gauge", "nodes of the prefix tree"),
    "lookup_tokens": Family("counter", "tokens looked up in the tree"),
    "hit_tokens": Family("counter", "tokens that were found there"),
    "num_grammar_waiting": Family("gauge", "requests whose grammar is being compiled"),
    "grammars_cached": Family("gauge", "compiled grammars that are kept"),
    "grammars_cached_bytes": Family("gauge", "memory that they take"),
    "grammars_compiled": Family("counter", "grammars compiled"),
    "grammar_cache_hits": Family("counter", "requests whose grammar was kept"),
    "builds_after_ready": Family("counter", "kernels and graphs built since the engine was ready"),
}
"""The engine's own numbers by their name there; on ``/metrics`` with the prefix ``tupelo:``."""


def declared() -> dict[str, Family]:
    """Every metric by its name, without ``_total``."""
    return {**SERVER, **SCHEDULER, **{f"tupelo:{key}": family for key, family in ENGINE.items()}}


def exposed_names() -> set[str]:
    """Every name that a query may use."""
    names = set()
    for name, family in declared().items():
        endings = {"counter": ["_total"], "gauge": [""]}.get(
            family.kind, ["_bucket", "_sum", "_count"]
        )
        names |= {name + ending for ending in endings}
    return names
