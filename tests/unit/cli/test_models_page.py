"""docs/models.md says what the registry says, and every family on it is compared."""

import subprocess
import sys
from pathlib import Path

import pytest

from tupelo.checkpoint import ENCODERS, FAMILIES

ROOT = Path(__file__).resolve().parents[3]


def test_page_is_up_to_date_and_every_family_has_a_case() -> None:
    command = [sys.executable, str(ROOT / "ci" / "models_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("names", [FAMILIES, ENCODERS], ids=["decoders", "encoders"])
def test_every_family_is_on_it(names: dict[str, str]) -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"{name} (`" not in page]


def test_the_example_of_a_new_family_is_what_was_added() -> None:
    page = (ROOT / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
    families = ROOT / "packages" / "core" / "src" / "tupelo" / "checkpoint" / "families"
    code = (families / "olmo3.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```" in page
    assert len(code.splitlines()) <= 150
    case = page.partition("```text\n")[2].partition("```")[0]
    assert case in (ROOT / "tests" / "parity" / "families.py").read_text(encoding="utf-8")
    line = page.split("```python\n")[2].partition("```")[0]
    assert line in (families / "__init__.py").read_text(encoding="utf-8")
    files = {part for part in page.split("`") if part.endswith(".py") and "/" not in part}
    assert not [name for name in files if not (families / name).is_file()]
