"""Command-line flags and their documentation, generated from the options of a config dataclass.

An option is declared once, as a field made by ``tupelo.config.option``; this module turns the
declarations into argparse flags, the parsed flags back into a config, and the lot into a table.
"""

from argparse import (
    SUPPRESS,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
)
from collections.abc import Callable, Collection, Iterator
from dataclasses import Field, fields
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from tupelo.config import default_of, flag_of

C = TypeVar("C")

# Spellings that users of other servers have in their scripts.
ALIASES: Final = {"model": ("--model-path",), "tokenizer": ("--tokenizer-path",)}


def add_options(parser: ArgumentParser, config: type[Any], *, skip: Collection[str] = ()) -> None:
    """Add a flag for every option of ``config`` (a dataclass), except the fields in ``skip``.

    A bool becomes ``--flag`` and ``--no-flag``; a tuple takes several values. A flag that is not
    given leaves no attribute, so the dataclass's own default holds.
    """
    group = parser.add_argument_group(config.__name__)
    for item, kind in _options(config):
        if item.name in skip:
            continue
        flags = (flag_of(item), *ALIASES.get(item.name, ()))
        text = _help(item).replace("%", "%%")
        if kind is bool:
            group.add_argument(
                *flags, dest=item.name, action=BooleanOptionalAction, default=SUPPRESS, help=text
            )
            continue
        choices = item.metadata.get("choices") or None
        several = get_origin(kind) is tuple
        group.add_argument(
            *flags,
            dest=item.name,
            type=_parser(get_args(kind)[0] if several else kind),
            nargs="+" if several else None,
            choices=choices,
            default=SUPPRESS,
            metavar=None if choices else _type_name(kind).upper(),
            help=text,
        )


def add_model(parser: ArgumentParser) -> None:
    """Add the optional positional ``MODEL``, an equal of ``--model``; put it before the options."""
    parser.add_argument(
        "model",
        nargs="?",
        default=SUPPRESS,  # else an absent one would overwrite --model
        metavar="MODEL",
        help="model folder, GGUF file or hub id; the demo model if absent",
    )


def from_args(config: type[C], args: Namespace, **fixed: Any) -> C:
    """A ``config`` from parsed flags; options that were not given keep their defaults.

    Args:
        fixed: fields that the caller decides, before the flags.

    Raises:
        ConfigError: a value that the config refuses.
    """
    given = vars(args)
    values = {item.name: given[item.name] for item, _ in _options(config) if item.name in given}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return config(**{**values, **fixed})


def markdown_table(config: type[Any]) -> str:
    """A Markdown table of every option of ``config``: flag, type, default, meaning."""
    lines = ["| option | type | default | meaning |", "| --- | --- | --- | --- |"]
    for item, kind in _options(config):
        flags = ", ".join(f"`{flag}`" for flag in (flag_of(item), *ALIASES.get(item.name, ())))
        choices = item.metadata.get("choices")
        shown = ", ".join(f"`{c}`" for c in choices) if choices else _type_name(kind)
        meaning = item.metadata["help"].replace("|", "\\|")
        low = item.metadata.get("low")
        bound = f"; at least {low:g}" if low else ""
        lines.append(f"| {flags} | {shown} | {_shown(item)} | {meaning}{bound} |")
    return "\n".join(lines)


def _options(config: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    """Each declared option with its type; ``X | None`` counts as ``X``."""
    hints = get_type_hints(config)
    for item in fields(config):
        if "help" not in item.metadata:
            continue
        kind = hints[item.name]
        if get_origin(kind) is UnionType:
            kind = next(part for part in get_args(kind) if part is not NoneType)
        yield item, kind


def _type_name(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"{_type_name(get_args(kind)[0])} …"
    names: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "switch"}
    return names.get(kind, getattr(kind, "__name__", str(kind)).lower())


def _parser(kind: Any) -> Callable[[str], Any]:
    """``kind`` as argparse wants it: its errors name what is expected."""

    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise ArgumentTypeError(f"expected {_type_name(kind)}, got {text!r}") from None

    return parse


def _help(item: Field[Any]) -> str:
    default = default_of(item)
    if default is None or default in ("", ()):
        return str(item.metadata["help"])
    if isinstance(default, bool):
        return f"{item.metadata['help']} (default: {'on' if default else 'off'})"
    return f"{item.metadata['help']} (default: {default})"


def _shown(item: Field[Any]) -> str:
    default = default_of(item)
    if default is None or default in ("", ()):
        return "–"
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"`{default}`"
