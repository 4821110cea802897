"""The OpenAPI document: FastAPI's, with keys and with the errors that any route may answer."""

from typing import Any

from fastapi import FastAPI

from tupelo_server.access import Access, access_of
from tupelo_server.errors import is_anthropic, is_openai

_ERRORS = {
    "400": "the request is wrong: the message says what was got and what is allowed",
    "401": "no API key, or one that is not known",
    "403": "the route needs the admin key",
    "404": "no such model, or a route that is switched off",
    "408": "the body took too long",
    "413": "the body is too large",
    "429": "too many requests wait: come back after the seconds of ``retry-after``",
    "500": "the server failed",
    "503": "the engine is starting, stopping or gone",
    "504": "the request took longer than it may",
}
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "OtherError": {"type": "object", "description": "an error of a route that is not OpenAI's"},
}


class DocumentedApi(FastAPI):
    """An application that describes itself whole."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            parts = document.setdefault("components", {})
            parts.setdefault("schemas", {}).update(_SCHEMAS)
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            public = {
                route.path  # type: ignore[attr-defined]  # every kind of route has one
                for route in self.routes
                if access_of(route) is Access.PUBLIC
            }
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _complete(operation, path, public=path in public)
        assert self.openapi_schema is not None
        return self.openapi_schema


def _complete(operation: dict[str, Any], path: str, *, public: bool) -> None:
    ours = is_openai(path) and not is_anthropic(path)
    name = "Error" if ours else "OtherError"
    schema = {"schema": {"$ref": f"#/components/schemas/{name}"}}
    for status, text in _ERRORS.items():
        if public and status in ("401", "403"):
            continue
        content = {"application/json": schema}
        operation["responses"].setdefault(status, {"description": text, "content": content})
    operation["security"] = [] if public else [{"key": []}]
