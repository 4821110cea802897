"""Writes the tables of docs/http-api.md from the routes and bodies: ``python ci/http_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from fastapi.routing import APIRoute

from tupelo.request import SamplingParams
from tupelo_server.access import access_of
from tupelo_server.app import ROUTERS
from tupelo_server.protocol.anthropic import CountBody, MessagesBody
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.completion import CompletionBody
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, Body
from tupelo_server.protocol.grammar import GRAMMAR_FIELDS
from tupelo_server.protocol.native import GenerateBody
from tupelo_server.protocol.ollama import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    OllamaShowBody,
)
from tupelo_server.protocol.ollama_options import OllamaOptions
from tupelo_server.protocol.operate import (
    LoadModelBody,
    MemoryBody,
    PauseBody,
    ProfileBody,
    UnloadModelBody,
    UpdateWeightsBody,
    WeightVersionBody,
)
from tupelo_server.protocol.pooled import (
    ClassifyBody,
    EmbeddingsBody,
    EncodeBody,
    RerankBody,
    ScoreBody,
)
from tupelo_server.protocol.responses import ResponsesBody
from tupelo_server.protocol.sessions import CloseSessionBody, OpenSessionBody
from tupelo_server.protocol.text import DetokenizeBody, TokenizeBody

PAGE = Path(__file__).resolve().parent.parent / "docs" / "http-api.md"

BODIES: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/responses": ResponsesBody,
    "/v1/completions": CompletionBody,
    "/generate": GenerateBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/api/chat": OllamaChatBody,
    "/api/generate": OllamaGenerateBody,
    "/api/embed": OllamaEmbedBody,
    "/api/embeddings": OllamaEmbeddingsBody,
    "/api/show": OllamaShowBody,
    "/open_session": OpenSessionBody,
    "/close_session": CloseSessionBody,
    "/v1/embeddings": EmbeddingsBody,
    "/v1/rerank": RerankBody,
    "/v1/score": ScoreBody,
    "/v1/classify": ClassifyBody,
    "/encode, /classify": EncodeBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
    "/pause_generation": PauseBody,
    "/update_weights_from_disk": UpdateWeightsBody,
    "/update_weight_version": WeightVersionBody,
    "/release_memory_occupation, /resume_memory_occupation": MemoryBody,
    "/start_profile": ProfileBody,
    "/load_model": LoadModelBody,
    "/unload_model": UnloadModelBody,
}


def render(page: str) -> str:
    """The page with its tables as they should be."""
    for name, table in (("routes", _routes()), ("fields", _fields())):
        before, begin, rest = page.partition(f"<!-- begin {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"the page has no place for {name}"
        page = before + begin + table + end + after
    return page


def _routes() -> str:
    found: dict[str, list[APIRoute]] = {}
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            found.setdefault(route.path, []).append(route)
    lines = ["", "| route | methods | for | what it does |", "| --- | --- | --- | --- |"]
    for path in sorted(found):
        routes = found[path]
        methods = ", ".join(sorted({m for route in routes for m in route.methods or ()}))
        access = max(access_of(route) for route in routes).name.lower()
        said = " ".join(routes[0].description.replace("``", "`").split())
        lines.append(f"| `{path}` | {methods} | {access} | {said.partition('. ')[0].rstrip('.')} |")
    return "\n".join([*lines, "", ""])


def _fields() -> str:
    parts = [""]
    for path, body in BODIES.items():
        parts += [f"### {path.replace('/', '`/', 1).replace(', /', '`, `/')}`", ""]
        parts += [_listed("taken", sorted(body.model_fields))]
        if body is GenerateBody:
            own = {field.name for field in dataclasses.fields(SamplingParams)} - {"seed"}
            params = sorted({*own, *GRAMMAR_FIELDS, "sampling_seed", "stream_interval"})
            parts += [_listed("taken in `sampling_params`", params)]
        parts += _refused(body.unsupported)
        if body is OllamaChatBody:
            parts += [_listed("taken in `options`", sorted(OllamaOptions.model_fields))]
            parts += _refused(OllamaOptions.unsupported)
        parts += [""]
    parts += ["### Refused everywhere", "", *_refused(COMMON_UNSUPPORTED, {}), ""]
    return "\n".join(parts)


def _refused(table: Any, common: Any = COMMON_UNSUPPORTED) -> list[str]:
    """What a table of tolerated values refuses beyond ``common``."""
    own = {name: values for name, values in table.items() if name not in common}
    without = sorted(name for name, values in own.items() if values is ANY)
    some = sorted(name for name, values in own.items() if values and values is not ANY)
    never = sorted(name for name, values in own.items() if not values)
    shown = [f"`{name}` ({', '.join(f'`{_json(v)}`' for v in own[name])})" for name in some]
    lines = []
    if without:
        lines.append(_listed("of no effect by their definition", without))
    if shown:
        lines.append(f"- taken at these values alone: {', '.join(shown)}")
    if never:
        lines.append(_listed("refused", never))
    return lines


def _json(value: Any) -> str:
    return str(value).replace("'", '"') if isinstance(value, list | dict) else str(value)


def _listed(title: str, names: list[str]) -> str:
    return f"- {title}: " + ", ".join(f"`{name}`" for name in names)


def main() -> int:
    """Write the page, or with ``--check`` compare it; the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(page), encoding="utf-8")
        return 0
    if page == render(page):
        return 0
    print("docs/http-api.md is not up to date; run: python ci/http_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
