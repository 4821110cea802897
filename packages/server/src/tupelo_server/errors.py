"""Error bodies, and the errors that only HTTP has.

Four shapes: ``{"error": {"message", "type", "param", "code"}}`` on ``/v1/*``, as OpenAI clients
expect, ``{"type": "error", "error": {"type", "message"}}`` on ``/v1/messages``, as Anthropic's do,
``{"error": "…"}`` on ``/api/*``, as Ollama's do, and ``{"error": {"message"}}`` on native routes,
with ``code`` where there is one. No body holds a path, a key or a stack.
"""

import logging
from typing import Any

from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError, TemplateError

logger = logging.getLogger(__name__)

INTERNAL = "internal server error; the server's log has the details"

RETRY_AFTER_S = 1
"""What an overloaded, starting or stopping server asks a client to wait."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    499: "aborted_error",
    500: "internal_error",
    503: "service_unavailable_error",
}


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class SchemaError(InvalidRequest):
    """The body is no JSON, or a field of it has the wrong type or is unknown."""


class BodyTooLarge(RequestError):
    """The body is longer than the server takes."""

    status = 413
    code = "request_too_large"


class BodyTimeout(RequestError):
    """The client took too long to send its body."""

    status = 408
    code = "request_timeout"


class NotFound(RequestError):
    """No such route, or nothing of this name."""

    status = 404


class ModelNotFound(NotFound):
    """A model that this server does not have, or has no more."""

    code = "model_not_found"


class ModelNotLoaded(EngineUnavailable):
    """There is no model now; an administrator may load one."""

    code = "model_not_loaded"


class MethodNotAllowed(RequestError):
    """The route exists, but not for this method."""

    status = 405


class Unauthorized(RequestError):
    """No API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    """The key is known, but this is not for its holder."""

    status = 403
    code = "permission_denied"


class ClientGone(Exception):
    """The client closed the connection; nobody waits for an answer."""


def as_request_error(error: Exception) -> RequestError:
    """What ``error`` is for a client. The unexpected is logged and becomes a 500."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, TemplateError):
        return InvalidRequest(str(error), param="messages", code="template_error")
    private = not logger.isEnabledFor(logging.DEBUG)
    logger.error(
        "unexpected error while serving a request", exc_info=error, extra={"private": private}
    )
    return RequestError(INTERNAL, code="internal_error")


def error_body(error: RequestError, path: str) -> dict[str, Any]:
    """The body of an error for a request to ``path``."""
    message = str(error)
    if is_anthropic(path):
        return anthropic_error(error)
    if is_ollama(path):
        return {"error": message}
    if is_openai(path):
        return {
            "error": {
                "message": message,
                "type": _type_of(error.status),
                "param": error.param,
                "code": error.code,
            }
        }
    if isinstance(error, Unauthorized):
        return {"error": "Unauthorized"}
    if isinstance(error, SchemaError) and path == "/generate":
        return {"error": message}
    told = {"message": message}
    return {"error": told if error.code is None else {**told, "code": error.code}}


def error_headers(error: RequestError) -> dict[str, str]:
    """Headers that belong to an error: how to authenticate, when to come back, that it is over."""
    if isinstance(error, Unauthorized):
        return {"www-authenticate": "Bearer"}
    if error.status in (429, 503):
        return {"retry-after": str(RETRY_AFTER_S)}
    if isinstance(error, BodyTimeout | BodyTooLarge):  # the rest of the body is not waited for
        return {"connection": "close"}
    return {}


def error_event(error: RequestError) -> dict[str, Any]:
    """The error event of a stream that has begun."""
    return {
        "error": {
            "message": str(error),
            "type": _type_of(error.status),
            "code": error.status,
            "retryable": isinstance(error, EngineUnavailable) or error.status == 429,
        }
    }


def anthropic_error(error: RequestError) -> dict[str, Any]:
    """The body, and the event, of an error to Anthropic's clients."""
    kind = _ANTHROPIC_TYPES.get(
        error.status, "invalid_request_error" if error.status < 500 else "api_error"
    )
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to Anthropic's API."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def is_ollama(path: str) -> bool:
    """Whether a path belongs to Ollama's API."""
    return path == "/api" or path.startswith("/api/")


def is_openai(path: str) -> bool:
    """Whether a path belongs to the OpenAI API."""
    return path == "/v1" or path.startswith("/v1/")


def _type_of(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "internal_error")
