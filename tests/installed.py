"""A package in a folder of packages, with its metadata, as an installer leaves it there."""

import tomllib
from pathlib import Path


def install(project: Path, into: Path) -> None:
    """Make what ``project`` holds (a pyproject.toml, and packages under src) importable from
    ``into``, and its entry points findable there."""
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    for package in (project / "src").iterdir():
        (into / package.name).symlink_to(package)
    name, version = about["name"], about["version"]
    metadata = into / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in about["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
