"""The gRPC server: keys, limits, error statuses, the standard health service, reflection."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tupelo.errors import ConfigError, RequestError
from tupelo_server.access import Access
from tupelo_server.config import ServerConfig
from tupelo_server.context import CONTEXT, RequestContext, read_headers
from tupelo_server.errors import Forbidden, NotFound, Unauthorized, as_request_error
from tupelo_server.keys import Caller, KeyRing, bearer
from tupelo_server.rpc.messages import SERVICE, message
from tupelo_server.rpc.service import Service, follow
from tupelo_server.state import ServerState

logger = logging.getLogger(__name__)

Call = Any  # grpc.aio.ServicerContext; grpcio ships no types
Unary = Callable[[Any, str], Awaitable[Any]]

_STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_GRACE_S = 3.0


class RpcServer:
    """One run of the service.

    Attributes:
        address: where it listens, ``host:port``.
    """

    def __init__(self, state: ServerState) -> None:
        """Bind the port; nothing is answered before ``start``.

        Raises:
            ConfigError: the address is taken or is none of this machine, or TLS files are wrong.
        """
        config = state.config
        self._service = Service(state)
        self._keys = KeyRing(
            config.api_keys, config.admin_api_keys, open_admin=config.enable_admin_routes
        )
        self._share_cache = config.share_cache_across_keys
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.max_body_bytes),
                ("grpc.so_reuseport", 0),
            ]
        )
        self._health = health.aio.HealthServicer()
        self._following: asyncio.Task[None] | None = None
        self._server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        host = f"[{config.host}]" if ":" in config.host else config.host
        self.address = f"{host}:{config.grpc_port}"
        try:
            if config.ssl_certfile:
                self._server.add_secure_port(self.address, _credentials(config))
            else:
                self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self.address} for gRPC; choose another --grpc-port, or stop "
                "the program that uses it"
            ) from error

    async def start(self) -> None:
        """Answer."""
        await self._server.start()
        self._following = asyncio.create_task(follow(self._service, self._tell))
        logger.info("gRPC on %s", self.address)

    async def stop(self) -> None:
        """End; calls that still run get a moment."""
        if self._following is not None:
            self._following.cancel()
        await self._server.stop(_GRACE_S)

    async def _tell(self, ready: bool) -> None:
        """The health service of every name that we have."""
        states = health_pb2.HealthCheckResponse
        status = states.SERVING if ready else states.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    def _handlers(self) -> Any:
        service = self._service
        unary: dict[str, tuple[Unary, str, Access]] = {
            "Embed": (service.embed, "EmbedRequest", Access.USER),
            "Tokenize": (service.tokenize, "TokenizeRequest", Access.USER),
            "Detokenize": (service.detokenize, "DetokenizeRequest", Access.USER),
            "Health": (service.health, "HealthRequest", Access.PUBLIC),
            "GetModelInfo": (service.model_info, "ModelInfoRequest", Access.USER),
            "Abort": (service.abort, "AbortRequest", Access.USER),
            "FlushCache": (service.flush_cache, "FlushCacheRequest", Access.OPERATOR),
        }
        methods: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(method, access),
                request_deserializer=message(request).FromString,
                response_serializer=_serialize,
            )
            for name, (method, request, access) in unary.items()
        }
        methods["Generate"] = grpc.unary_stream_rpc_method_handler(
            self._generate,
            request_deserializer=message("GenerateRequest").FromString,
            response_serializer=_serialize,
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(self, method: Unary, access: Access) -> Callable[[Any, Call], Awaitable[Any]]:
        async def answer(request: Any, call: Call) -> Any:
            try:
                caller = self._admit(call, access)
                return await method(request, caller.owner)
            except Exception as error:
                await _refuse(call, as_request_error(error))

        return answer

    async def _generate(self, request: Any, call: Call) -> AsyncIterator[Any]:
        try:
            caller = self._admit(call, Access.USER)
            async with aclosing(self._service.generate(request, caller.owner)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:
            await _refuse(call, as_request_error(error))

    def _admit(self, call: Call, access: Access) -> Caller:
        """Who calls, if the method is open to them; sets the request's context.

        Raises:
            Unauthorized, Forbidden, NotFound: as the guard of the HTTP routes has them.
        """
        headers = _headers(call.invocation_metadata() or ())
        caller = self._keys.caller(bearer(headers))
        if caller.access < access:
            if caller.access is Access.PUBLIC:
                raise Unauthorized("a valid API key is needed: send authorization: Bearer KEY")
            if not self._keys.has_admin:
                raise NotFound("this method is switched off", code="admin_disabled")
            raise Forbidden("this method needs the admin key")
        timing, timeout_s = read_headers(headers)
        CONTEXT.set(
            RequestContext(
                timing=timing,
                timeout_s=timeout_s,
                tenant="" if self._share_cache else caller.owner,
                hide_cached=self._share_cache and self._keys.num_keys > 1,
            )
        )
        return caller


async def _refuse(call: Call, error: RequestError) -> None:
    """End the call with the status that fits; the field and the code go into its trailers."""
    details = [("tupelo-param", error.param), ("tupelo-code", error.code)]
    trailers = tuple((name, _ascii(value)) for name, value in details if value)
    status = _STATUSES.get(error.status, grpc.StatusCode.INTERNAL)
    await call.abort(status, str(error), trailers)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()


def _headers(metadata: Any) -> Sequence[tuple[bytes, bytes]]:
    return [
        (key.lower().encode(), value if isinstance(value, bytes) else value.encode())
        for key, value in metadata
    ]


def _serialize(value: Any) -> bytes:
    data: bytes = value.SerializeToString()
    return data


def _credentials(config: ServerConfig) -> grpc.ServerCredentials:
    """TLS from the same files as over HTTP."""
    if config.ssl_keyfile_password:
        raise ConfigError("--grpc-port: gRPC reads no key with a password; give one without")
    chain = (Path(config.ssl_keyfile).read_bytes(), Path(config.ssl_certfile).read_bytes())
    roots = Path(config.ssl_ca_certs).read_bytes() if config.ssl_ca_certs else None
    return grpc.ssl_server_credentials([chain], roots, require_client_auth=roots is not None)
