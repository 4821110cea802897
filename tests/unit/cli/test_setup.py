"""What ``ci/setup.sh`` asks pip for, as pip is set up."""

import os
import platform
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[3] / "ci" / "setup.sh"
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu torch"


@pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="elsewhere the default index has torch's build for CPUs",
)
@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ("", True),
        ("global.timeout='60'", True),
        ("global.index-url='https://pip.example/simple'", False),
        (":env:.extra-index-url='https://pip.example/simple'", False),
        (":env:.find-links='/wheels'", False),
    ],
)
def test_torch_for_cpus_comes_where_pip_is_not_set_up_otherwise(
    settings: str, asked: bool, tmp_path: Path
) -> None:
    """In place of an environment's Python: a script that notes what pip is asked for."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    log = tmp_path / "log"
    told = f'case "$*" in *"config list") echo "{settings}" ;; *) echo "$@" >>{log} ;; esac\n'
    python.write_text("#!/bin/sh\n" + told)
    python.chmod(0o755)
    subprocess.run(
        ["bash", str(SETUP)], env={**os.environ, "TUPELO_VENV": str(tmp_path)}, check=True
    )
    torch, packages, check = log.read_text().splitlines()
    assert torch.endswith(" torch")
    assert torch.endswith(CPU_INDEX) is asked
    assert "extra-index-url" not in packages
    assert check == "-m pip check"
