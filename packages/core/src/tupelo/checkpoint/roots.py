"""Folders that clients may name paths in: a path that a request brings is used only inside one."""

import contextlib
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
            with contextlib.suppress(OSError):  # too long a name, no right to look: not there
                found = Path(os.path.realpath(root / path))
                if _is_inside(found, real_roots) and found.exists():
                    return found
    raise InvalidRequest(
        f"{param}: there is no {path!r:.100} in the folders that {option} allows", param=param
    )


def new_inside(path: str, root: str, *, param: str, option: str) -> Path:
    """The folder ``path`` inside ``root``, made where it is not there; "" is the root itself.

    Args:
        path: as the client sent it. param: its field. option: the flag that sets the root.

    Raises:
        InvalidRequest: there is no root, it would lie elsewhere, or it cannot be made.
    """
    if not root:
        raise InvalidRequest(
            f"{param}: this server writes no files for clients; its operator sets {option}",
            param=param,
        )
    real = Path(os.path.realpath(root))
    refusal = InvalidRequest(f"{param}: {path!r:.100} is no folder inside {option}", param=param)
    if "\0" in path or len(path) > MAX_PATH_CHARS:
        raise refusal
    folder = Path(os.path.realpath(real / path))
    if not folder.is_relative_to(real):
        raise refusal
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise refusal from None
    return folder


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    children = list(path.iterdir()) if path.is_dir() else []
    real = [path, *(Path(os.path.realpath(child)) for child in children)]
    return all(any(file.is_relative_to(root) for root in roots) for file in real)
