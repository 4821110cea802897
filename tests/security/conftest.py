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
from tests.security.guarded import Guarded, Keyed
from tests.security.model import write_byte_model
from tests.security.templates import harmful


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


@pytest.fixture(scope="session")
def keyed_served(byte_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server with keys of two users and of an administrator, which logs all it may."""
    with Keyed(byte_model, tmp_path_factory.mktemp("keyed")) as server:
        yield server


@pytest.fixture(scope="module")
def keyed_besieged(keyed_served: Keyed) -> Iterator[Keyed]:
    """The same for one file."""
    with keyed_served.besieged():
        yield keyed_served


@pytest.fixture
def keyed(keyed_besieged: Keyed) -> Iterator[Keyed]:
    """The same for one test; what streams beside it belongs to the first user."""
    yield keyed_besieged
    keyed_besieged.still_stands()


@pytest.fixture(scope="session")
def templated_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server whose model's chat template does harm when it is told to."""
    folder = tmp_path_factory.mktemp("templated")
    model = write_byte_model(tmp_path_factory.mktemp("model"), harmful(str(folder / "ran")))
    with Guarded(model, folder) as server:
        yield server


@pytest.fixture(scope="module")
def templated(templated_served: Guarded) -> Iterator[Guarded]:
    """The same for one file."""
    with templated_served.besieged() as server:
        yield server
