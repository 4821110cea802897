"""docs/operations.md names options, routes and error codes that exist."""

import re
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from tupelo import errors
from tupelo.config import EngineConfig, flag_of
from tupelo_server import errors as server_errors
from tupelo_server.app import ROUTERS
from tupelo_server.config import ServerConfig
from tupelo_server.config_file import apply_config_file

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()


def test_options() -> None:
    known = {flag_of(item) for config in (ServerConfig, EngineConfig) for item in fields(config)}
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(named) > 25
    assert named - known == {"--config"}


def test_routes() -> None:
    known = {getattr(route, "path", "") for router in ROUTERS for route in router.routes}
    named = set(re.findall(r"`(/[a-z_]+)`", PAGE))
    assert len(named) >= 6
    assert named <= known | {"/v1/*"}


def test_error_codes() -> None:
    known = {
        getattr(kind, "code", None)
        for module in (errors, server_errors)
        for kind in vars(module).values()
        if isinstance(kind, type)
    }
    named = set(re.findall(r"\b\d{3} `([a-z_]+)`", PAGE))
    assert len(named) >= 5
    assert named <= known


def test_the_example_of_a_configuration_file(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    path, args = tmp_path / "server.yaml", Namespace()
    path.write_text(example[1])
    apply_config_file(args, str(path), (ServerConfig, EngineConfig))
    assert args.max_queue_time_s == 30.0
