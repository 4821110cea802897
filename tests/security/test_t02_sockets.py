"""T2: one port is open to the network, the HTTP port; what is inside is for this user alone."""

import contextlib
import os
import random
import socket
import stat
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from tests.security.guarded import Guarded


def folder_of(server: Guarded) -> Path:
    """The private folder of the sockets between server and engine."""
    return Path(server.engine.cmdline()[-1])


def processes(server: Guarded) -> list[psutil.Process]:
    return [server.process, *server.process.children(recursive=True)]


def test_only_the_http_port_listens(server: Guarded) -> None:
    """On any address, this machine's own included; and nothing is connected to the outside."""
    server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
    found = [c for p in processes(server) for c in p.net_connections("inet")]
    listening = {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}
    parts = urlsplit(server.url)
    assert listening == {(parts.hostname, parts.port)}
    assert {c.laddr.ip for c in found} == {"127.0.0.1"}
    assert not [c for c in found if c.type == socket.SOCK_DGRAM]


def test_the_sockets_are_this_user_s_alone(server: Guarded) -> None:
    folder = folder_of(server)
    facts = folder.lstat()
    assert stat.S_ISDIR(facts.st_mode)
    assert stat.S_IMODE(facts.st_mode) == 0o700
    assert facts.st_uid == os.geteuid()
    assert sorted(path.name for path in folder.iterdir()) == ["from-engine", "to-engine"]
    # Sockets without a name could be reached by every user of the machine.
    names = [c.laddr for p in processes(server) for c in p.net_connections("unix") if c.laddr]
    assert not [name for name in names if str(name).startswith(("@", "\0"))]


def test_noise_on_the_sockets_changes_nothing(server: Guarded) -> None:
    """Bytes that are no ZeroMQ, in pieces, and connections that say nothing."""
    noise = random.Random(2)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    sent = [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 10_000,
        greeting,
        greeting + b"\x04\x05\x06READY" + b"\xff" * 100,
        greeting + b"\x02" + b"\xff" * 8 + bytes(1000),
        *(noise.randbytes(noise.randrange(1, 2000)) for _ in range(20)),
    ]
    with contextlib.ExitStack() as silent:
        for name in ("to-engine", "from-engine"):
            for data in sent:
                connection = silent.enter_context(socket.socket(socket.AF_UNIX))
                connection.settimeout(5)
                connection.connect(str(folder_of(server) / name))
                with contextlib.suppress(OSError):  # refused while it was being sent
                    connection.sendall(data)
        server.streams.wait_for_a_round()


def test_the_engine_s_other_files_are_not_reachable(server: Guarded) -> None:
    """Its standard input is a pipe of the server, closed to others; a stranger's end is its end."""
    assert server.engine.ppid() == server.process.pid
    assert not server.engine.net_connections("inet")
