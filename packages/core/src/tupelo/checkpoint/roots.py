"""Folders that clients may name paths in: a path that a request brings is used only inside one."""

import os
from collections.abc import Sequence
from pathlib import Path

from tupelo.errors import InvalidRequest

MAX_PATH_CHARS = 4096


def split_roots(text: str) -> tuple[Path, ...]:
    """The folders of an option, which separates them as ``PATH`` does."""
    return tuple(Path(part) for part in text.split(os.pathsep) if part)


def inside_roots(path: str, roots: Sequence[Path], *, param: str, option: str) -> Path:
    """``path`` without symbolic links, if it exists and lies in one of ``roots``.

    A relative path is looked for in each root. Every file that stands directly in a folder must
    lie in a root too, wherever links lead.

    Args:
        path: as the client sent it. param: its field. option: the flag that sets the roots.

    Raises:
        InvalidRequest: otherwise. The message tells nothing of what is elsewhere.
    """
    if not roots:
        raise InvalidRequest(
            f"{param}: this server takes no paths from clients; its operator sets {option}",
            param=param,
        )
    real_roots = [Path(os.path.realpath(root)) for root in roots]
    if path and "\0" not in path and len(path) <= MAX_PATH_CHARS:
        for root in real_roots:
            found = Path(os.path.realpath(root / path))
            if _is_inside(found, real_roots) and found.exists():
                return found
    raise InvalidRequest(
        f"{param}: there is no {path!r:.100} in the folders that {option} allows", param=param
    )


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    children = list(path.iterdir()) if path.is_dir() else []
    real = [path, *(Path(os.path.realpath(child)) for child in children)]
    return all(any(file.is_relative_to(root) for root in roots) for file in real)
