"""``tupelo new-backend``: a package for another device, which passes the conformance kit at once.

What it writes lies in ``skeleton/`` beside this file, for a device called acme.
"""

import re
from argparse import ArgumentParser, Namespace
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Final

from tupelo.commands import Command
from tupelo.errors import ConfigError

_FILES: Final = {
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "record.py": "src/tupelo_{name}/__init__.py",
    "vendor.py": "src/tupelo_{name}/vendor.py",
    "kernels.py": "src/tupelo_{name}/kernels.py",
    "test_record.py": "tests/test_record.py",
    "conformance.toml": "conformance.toml",
    "run.sh": "ci/run.sh",
    "workflow.yml": ".github/workflows/{name}.yml",
}
"""Files of the skeleton, and where each goes; in the order in which they are read."""

_NAME: Final = re.compile(r"[a-z][a-z0-9]*")
_DEVICE: Final = re.compile(r"[a-z][a-z0-9]*(:[0-9]+)?")
_LIBRARY: Final = re.compile(r"([a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*)?")


def new_backend(name: str, folder: Path, *, device: str = "cpu", library: str = "") -> list[Path]:
    """Write the package ``tupelo-backend-NAME`` into ``folder``, which must be empty or absent.

    Args:
        device: torch's name of the device; the host serves until torch knows it.
        library: the module that makes torch know it, "" for none.

    Returns:
        The files, in reading order.

    Raises:
        ConfigError: a name that cannot be, a backend of that name is installed, or the folder holds
            something.
    """
    _check("NAME", name, _NAME, "lower-case letters and digits, a letter first")
    _check("--device", device, _DEVICE, "a device of torch's, such as cpu or acme:0")
    _check("--library", library, _LIBRARY, "the name of a module")
    taken = {point.name for point in entry_points(group="tupelo.backends")}
    if name in taken:
        raise ConfigError(f"NAME: a backend {name!r} is installed already; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name another folder with --into")
    settings = {
        'DEVICE = "cpu"': f'DEVICE = "{device}"',
        'LIBRARY = ""': f'LIBRARY = "{library}"',
        "vendor = []": f'vendor = ["{library.replace("_", "-")}"]' if library else "vendor = []",
    }
    skeleton, written = files("tupelo.commands") / "skeleton", []
    for source, place in _FILES.items():
        text = (skeleton / f"{source}.in").read_text(encoding="utf-8")
        text = text.replace("acme", name).replace("ACME", name.upper())
        for old, new in settings.items():
            text = re.sub(rf"^{re.escape(old)}", new, text, flags=re.MULTILINE)
        path = folder / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
        if path.suffix == ".sh":
            path.chmod(0o755)
    typed = folder / "src" / f"tupelo_{name}" / "py.typed"
    typed.touch()
    return [*written, typed]


def _check(what: str, value: str, allowed: re.Pattern[str], words: str) -> None:
    if not allowed.fullmatch(value):
        raise ConfigError(f"{what}: got {value!r}; must be {words}")


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the backend, as users will type it")
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="folder to write (default: tupelo-backend-NAME)"
    )
    parser.add_argument(
        "--device", default="cpu", help="torch's name of the device (default: %(default)s)"
    )
    parser.add_argument(
        "--library", dest="module", default="", help="module that makes torch know the device"
    )


def _run(args: Namespace) -> int:
    folder = args.into or Path(f"tupelo-backend-{args.name}")
    for path in new_backend(args.name, folder, device=args.device, library=args.module):
        print(path)
    print(f"Next: pip install -e {folder} && {folder}/ci/run.sh --no-device")
    return 0


COMMAND = Command("new-backend", "write a package for another device", _configure, _run)
