"""Hostile input at every door, beside eight streams that must not notice.

A test takes ``server`` and sends what it likes: streams run beside it, and after the test they must
have come out byte-identical to a quiet run, from the engine process that was there before. After
each file nothing may be left: no request, no page, no memory beyond a bound, no open file. One
server serves all files; one that a test would break or that needs other options is the test's own
(``Guarded``).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.security.guarded import Guarded
from tests.security.model import write_byte_model


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model whose tokens are bytes."""
    return write_byte_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def served(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The server of all files, while nothing but its own streams runs."""
    with Guarded(byte_model, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def besieged(served: Guarded) -> Iterator[Guarded]:
    """The same for one file, streams running; audited when the file has been run."""
    with served.besieged() as server:
        yield server


@pytest.fixture
def server(besieged: Guarded) -> Iterator[Guarded]:
    """The same for one test; checked after it."""
    yield besieged
    besieged.still_stands()
