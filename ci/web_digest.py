"""Says whether the playground in the server's package was built from ``packages/server/web``.

``python ci/web_digest.py --check`` compares digests and needs no node; without ``--check`` it
writes them, which ``ci/web.sh`` does after a build.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "packages" / "server" / "web"
BUILT = ROOT / "packages" / "server" / "src" / "tupelo_server" / "static"
RECORD = BUILT / "built.json"

MAX_BYTES = 300_000
"""Of all built files together."""


def main() -> int:
    """Write or check the record; 1 if the built files are not of these sources."""
    found = {
        "sources": digest([path for path in _files(SOURCES) if _matters(path)]),
        "files": {str(path.relative_to(BUILT)): digest([path]) for path in _files(BUILT)},
    }
    if "--check" not in sys.argv:
        RECORD.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    known = json.loads(RECORD.read_text("utf-8"))
    size = sum(path.stat().st_size for path in _files(BUILT))
    problems = [
        f"{what} of the playground differ from its record: run bash ci/web.sh build"
        for what in ("sources", "files")
        if known[what] != found[what]
    ]
    if size > MAX_BYTES:
        problems.append(f"the playground has {size} bytes; at most {MAX_BYTES}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def digest(paths: list[Path]) -> str:
    """SHA-256 of names and contents, in this order."""
    found = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        found.update(f"{path.relative_to(ROOT)} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files below a folder that belong to the project, sorted; not the record."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    names = {name.decode() for name in done.stdout.split(b"\0") if name}
    paths = sorted(ROOT / name for name in names)
    return [path for path in paths if path != RECORD and path.is_file()]


def _matters(path: Path) -> bool:
    """Whether a file of the sources can change what is built."""
    return path.suffix != ".md" and path.name not in (".gitignore", "tsconfig.json")


if __name__ == "__main__":
    sys.exit(main())
