"""The exception tree of Tupelo.

::

    TupeloError
    ├── ConfigError             an option, or a combination of options, that cannot work
    ├── CheckpointError         a model on disk that is absent, broken or unsupported
    │   └── UnsupportedModel    an architecture, tokenizer or tensor type that has no implementation
    ├── BackendError            the hardware side
    │   ├── BackendUnavailable  no backend, or the named one, can be used here
    │   ├── ContractError       a backend part that breaks the contract (found at registration)
    │   └── CapabilityError     a feature that the backend in use does not have
    ├── OutOfMemory             a model or a cache that does not fit (refused before loading)
    ├── RequestError            one request that cannot be served; carries an HTTP status
    │   ├── InvalidRequest      400: a field out of bounds, named by ``param``
    │   ├── ContextLengthExceeded  400: prompt and output do not fit the context
    │   ├── QueueFull           429
    │   ├── QueueTimeout        503: it waited too long for its first step
    │   ├── RequestTimeout      504: it took longer than it may
    │   ├── RequestAborted      499: aborted by the client or an operator
    │   ├── RequestFailed       500: the engine could not finish this request
    │   └── EngineUnavailable   503: the engine is starting, stopping, frozen or dead
    ├── ProgramError            a language program that is wrong, or whose model failed it
    │   └── UnsupportedOperation   a step that the program's backend cannot do
    └── TemplateError           a chat template that fails, is refused by the sandbox, or is too
    slow

A message says what was wrong, what was got, what is allowed, and the next step. Nothing answers
``None`` for "unknown", and no probe's error is swallowed.
"""


class TupeloError(Exception):
    """Root of every exception that Tupelo raises on purpose."""


class ConfigError(TupeloError):
    """An option, or a combination of options, that cannot work."""


class CheckpointError(TupeloError):
    """A model on disk that is absent, broken or unsupported."""


class UnsupportedModel(CheckpointError):
    """An architecture, tokenizer or tensor type that has no implementation here."""


class BackendError(TupeloError):
    """Root of the errors of the hardware side."""


class BackendUnavailable(BackendError):
    """No backend, or the named one, can be used on this machine."""


class ContractError(BackendError):
    """A backend part that breaks the contract; raised when it is registered or bound."""


class CapabilityError(BackendError):
    """A feature that the backend in use does not have."""


class OutOfMemory(TupeloError):
    """A model or a cache that does not fit; raised before anything is loaded."""


class TemplateError(TupeloError):
    """A chat template that fails, is refused by the sandbox, or exceeds its limits."""


class ProgramError(TupeloError):
    """A program of ``tupelo.lang`` that is wrong, or that the model did not do as it was told."""


class UnsupportedOperation(ProgramError):
    """A step of a program that its backend cannot do; raised before the step runs."""


class RequestError(TupeloError):
    """One request that cannot be served.

    Attributes:
        status: HTTP status code.
        code: machine-readable code of the OpenAI error body, or None.
        param: name of the request's field that is at fault, or None.
    """

    status: int = 500
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(RequestError):
    """A field of a request is out of its bounds or of the wrong type."""

    status = 400


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output do not fit the model's context."""

    code = "context_length_exceeded"


class QueueFull(RequestError):
    """The waiting queue is at its limit."""

    status = 429
    code = "queue_full"


class QueueTimeout(RequestError):
    """The request waited for its first step for longer than the server lets any wait."""

    status = 503
    code = "queue_timeout"


class RequestTimeout(RequestError):
    """The request took longer than its sender, or the server, allows."""

    status = 504
    code = "request_timeout"


class RequestAborted(RequestError):
    """The request was aborted by its client or by an operator."""

    status = 499
    code = "aborted"


class RequestFailed(RequestError):
    """The engine could not finish this request."""

    status = 500
    code = "internal_error"


class EngineUnavailable(RequestError):
    """The engine is starting, stopping, frozen or dead."""

    status = 503
    code = "engine_unavailable"
