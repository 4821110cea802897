"""One server with the demo model for all tests that leave it alive."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.harness import ServerProcess


@pytest.fixture(scope="session")
def server(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo model, served."""
    flags = ["--check-integrity", "--enable-cache-report", "--batch-invariant"]
    with ServerProcess(demo_gguf, tmp_path_factory.mktemp("server"), *flags) as running:
        yield running
