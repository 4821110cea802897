"""Options from a YAML file: names as the flags, the command line wins, mistakes are named."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

from tupelo.cli import main
from tupelo.commands.options import from_args
from tupelo.config import EngineConfig
from tupelo.errors import ConfigError
from tupelo_server.commands.serve import COMMAND
from tupelo_server.config import ServerConfig
from tupelo_server.config_file import apply_config_file

GOOD = """
# a comment
model-path: some/model
log_level: warning
port: 12345
shutdown-timeout-s: 5
enable-cache-report: true
cors-origins: [http://a.example.org, http://b.example.org]
api-key: secret
mem-fraction-static: 0.5
root-path:
"""


def parsed(tmp_path: Path, text: str, *flags: str) -> tuple[ServerConfig, EngineConfig]:
    path = tmp_path / "options.yaml"
    path.write_text(text)
    parser = ArgumentParser()
    COMMAND.configure(parser)
    args = parser.parse_args([*flags, "--config", str(path)])
    apply_config_file(args, args.config, (ServerConfig, EngineConfig))
    return from_args(ServerConfig, args), from_args(EngineConfig, args)


def test_values_and_names(tmp_path: Path) -> None:
    server, engine = parsed(tmp_path, GOOD)
    assert engine.model == "some/model"
    assert engine.mem_fraction_static == 0.5
    assert (server.log_level, server.port, server.shutdown_timeout_s) == ("warning", 12345, 5.0)
    assert server.enable_cache_report
    assert server.cors_origins == ("http://a.example.org", "http://b.example.org")
    assert server.api_keys == ("secret",)
    assert server.root_path == ""


def test_the_command_line_wins(tmp_path: Path) -> None:
    server, engine = parsed(tmp_path, GOOD, "other", "--port", "1", "--no-enable-cache-report")
    assert (engine.model, server.port, server.enable_cache_report) == ("other", 1, False)
    assert server.log_level == "warning"


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert parsed(tmp_path, "") == (ServerConfig(), EngineConfig())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("no-such-option: 1", "no-such-option"),
        ("port: many", "port"),
        ("port: true", "port"),
        ("enable-metrics: 1", "enable-metrics"),
        ("cors-origins: [1.5, true]", "cors-origins"),
        ("port: 1\nPORT: 2", "PORT"),
        ("log-level: info\nlog_level: info", "log_level"),
        ("model: a\nmodel-path: b", "model-path"),
        ("- port", "mapping"),
        ("port: [", "YAML"),
        ("!!python/object/apply:os.system ['true']", "YAML"),
        ("log-level: loud", "--log-level"),
        ("port: 99999", "--port"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parsed(tmp_path, text)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="readable file"):
        apply_config_file(Namespace(), str(tmp_path / "none"), (ServerConfig,))


def test_the_command_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("no-such-option: 1")
    assert main(["serve", "--config", str(path)]) == 2
    assert "'no-such-option'" in capsys.readouterr().err
