"""``--config FILE``: options from a YAML file, under the names of their flags."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from tupelo.commands.options import ALIASES
from tupelo.errors import ConfigError


def apply_config_file(args: Namespace, path: str, configs: tuple[type[Any], ...]) -> None:
    """Add the options of a file to parsed flags; a flag that was given wins.

    Args:
        configs: dataclasses whose options the file may name, as ``log-level`` or ``log_level``.

    Raises:
        ConfigError: the file is unreadable, names what is no option, or has a value of a wrong
            type. Bounds are checked by the configs.
    """
    kinds = {name: kind for config in configs for name, kind in _options(config)}
    aliases = {
        flag[2:].replace("-", "_"): name for name, flags in ALIASES.items() for flag in flags
    }
    found: dict[str, Any] = {}
    for given, value in _read(path).items():
        name = str(given).replace("-", "_")
        name = aliases.get(name, name)
        if name not in kinds:
            raise ConfigError(f"--config {path}: {given!r} is no option; see `tupelo serve --help`")
        if name in found:
            raise ConfigError(f"--config {path}: {given!r} is given twice")
        if value is not None:
            found[name] = _typed(f"--config {path}: {given}", value, kinds[name])
    for name, value in found.items():
        if not hasattr(args, name):
            setattr(args, name, value)


def _read(path: str) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a readable file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--config {path}: no valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: must be a mapping of options to values")
    return content


def _options(config: type[Any]) -> list[tuple[str, Any]]:
    hints = get_type_hints(config)
    return [(item.name, hints[item.name]) for item in fields(config) if "help" in item.metadata]


def _typed(place: str, value: Any, kind: Any) -> Any:
    """``value`` as an option of type ``kind`` has it.

    Raises:
        ConfigError: it is of another type.
    """
    if get_origin(kind) is UnionType:
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_typed(place, item, get_args(kind)[0]) for item in items)
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and type(value) in (int, float):
        return str(value)
    if type(value) is not kind:
        names = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
        raise ConfigError(f"{place}: got {value!r}; must be {names.get(kind, kind)}")
    return value
