"""Flags and documentation generated from declared options."""

from argparse import ArgumentParser
from dataclasses import dataclass, fields

import pytest

from tupelo.commands.options import add_model, add_options, from_args, markdown_table
from tupelo.config import EngineConfig, check_options, option
from tupelo.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One option of each kind."""

    model: str = option("", "what to serve")
    rate: float = option(0.5, "share of 100%", low=0.1)
    count_tokens: int = option(8, "tokens a page", low=1)
    colour: str = option("red", "which", choices=("red", "blue"))
    loud: bool = option(False, "say more")
    safe: bool = option(True, "stay safe")
    limit: int | None = option(None, "at most this many")
    origins: tuple[str, ...] = option((), "allowed origins")
    derived: int = 3

    def __post_init__(self) -> None:
        check_options(self)


def parse(*argv: str, skip: tuple[str, ...] = ()) -> Sample:
    parser = ArgumentParser(exit_on_error=False)
    add_model(parser)
    add_options(parser, Sample, skip=skip)
    return from_args(Sample, parser.parse_args(argv))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--rate", "0.25"], {"rate": 0.25}),
        (["--count-tokens", "16"], {"count_tokens": 16}),
        (["--colour", "blue"], {"colour": "blue"}),
        (["--loud", "--no-safe"], {"loud": True, "safe": False}),
        (["--limit", "3"], {"limit": 3}),
        (["--origins", "a", "b"], {"origins": ("a", "b")}),
        (["--model", "m"], {"model": "m"}),
        (["--model-path", "m"], {"model": "m"}),
        (["m", "--loud"], {"model": "m", "loud": True}),
        (["--loud", "m"], {"model": "m", "loud": True}),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_flags_become_fields(argv: list[str], expected: dict[str, object]) -> None:
    assert parse(*argv) == Sample(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--count-tokens", "many"], "expected integer, got 'many'"),
        (["--rate", "x"], "expected number, got 'x'"),
        (["--colour", "green"], "invalid choice"),
        (["--derived", "4"], "unrecognized"),
    ],
)
def test_bad_values_are_refused_by_the_parser(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = ArgumentParser(prog="sample")
    add_options(parser, Sample)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_bounds_are_refused_by_the_config() -> None:
    with pytest.raises(ConfigError, match="--count-tokens: got 0; must be at least 1"):
        parse("--count-tokens", "0")


def test_skipped_fields_have_no_flag_and_fixed_ones_win() -> None:
    parser = ArgumentParser()
    add_options(parser, Sample, skip=("rate",))
    assert "--rate" not in parser.format_help()
    args = parser.parse_args(["--limit", "3"])
    assert from_args(Sample, args, limit=5).limit == 5


def test_help_says_defaults_and_escapes_percent() -> None:
    parser = ArgumentParser()
    add_options(parser, Sample)
    text = " ".join(parser.format_help().split())
    assert "share of 100% (default: 0.5)" in text
    assert "stay safe (default: on)" in text
    assert "--loud, --no-loud" in text


def test_table_has_a_row_for_every_option() -> None:
    rows = markdown_table(Sample).splitlines()[2:]
    assert len(rows) == len(fields(Sample)) - 1
    assert rows[0] == "| `--model`, `--model-path` | text | – | what to serve |"
    assert "| `--colour` | `red`, `blue` | `red` | which |" in rows
    assert "| `--rate` | number | `0.5` | share of 100%; at least 0.1 |" in rows
    assert "| `--origins` | text … | – | allowed origins |" in rows


def test_engine_config_round_trips() -> None:
    parser = ArgumentParser()
    add_model(parser)
    add_options(parser, EngineConfig)
    args = parser.parse_args(["folder", "--page-size", "1", "--disable-radix-cache"])
    expected = EngineConfig(model="folder", page_size=1, disable_radix_cache=True)
    assert from_args(EngineConfig, args) == expected
    assert from_args(EngineConfig, parser.parse_args([])) == EngineConfig()
