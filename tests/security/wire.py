"""Bytes on a socket, for what no HTTP client would send."""

import socket
import time
from urllib.parse import urlsplit


def connect(url: str) -> socket.socket:
    """A connection to the server."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def exchange(url: str, data: bytes, *, half_close: bool = False) -> bytes:
    """Send ``data`` and read a reply, until the server closes, or has been silent for two seconds.

    A server that refuses closes while it is still being written to: what it said counts.
    """
    with connect(url) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed; read what it said
        return read(connection, 2)


def read(connection: socket.socket, silence_s: float) -> bytes:
    """One whole reply, or everything until the other side closes or says nothing for so long."""
    connection.settimeout(silence_s)
    found = bytearray()
    try:
        while part := connection.recv(65536):
            found += part
            if _whole(found):
                break
    except OSError:
        pass  # silent, or reset
    return bytes(found)


def closed_within(connection: socket.socket, limit_s: float) -> float:
    """Wait until the server closes; how long that took."""
    begin = time.monotonic()
    connection.settimeout(limit_s)
    try:
        while connection.recv(65536):
            continue
    except ConnectionResetError:
        pass  # closed too
    return time.monotonic() - begin


def status(reply: bytes) -> int:
    """The status of a reply; 0 if the connection was closed without one."""
    return int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else 0


def _whole(reply: bytearray) -> bool:
    head, end, body = reply.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
    return bool(end and length) and len(body) >= int(length)
