"""The kit's command line: exit codes, reports, and the list of known failures."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tupelo.conformance import Status, Target, main, run_kit

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = "tests.kit.answers"
ENTRY = """
[[known_failure]]
id = "{id}"
reason = "reads views as if they were contiguous"
link = "https://example.org/17"
date = 2026-01-31
"""
RED = (
    "ops/rms_norm/float32/strided/chosen",
    "ops/rms_norm/float32/strided/mutant_rms_norm",
    "ops/rms_norm/float32/heads_strided/chosen",
    "ops/rms_norm/float32/heads_strided/mutant_rms_norm",
)


def in_an_empty_folder(folder: Path, *args: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of ``python -m tupelo.conformance``."""
    variables = {k: v for k, v in os.environ.items() if k != "TUPELO_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-m", "tupelo.conformance", *args],
        cwd=folder,
        env=variables | environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_pass_is_0_and_leaves_three_reports(tmp_path: Path) -> None:
    code, out = in_an_empty_folder(
        tmp_path, "--backend", "cpu", "--level", "0,1", "--only", "ops/linear", "--report", "out"
    )
    assert code == 0, out
    assert "cpu: green" in out
    reports = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert reports == ["conformance.json", "conformance.md", "conformance.xml"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_unavailable_is_3_with_its_reason(tmp_path: Path) -> None:
    code, out = in_an_empty_folder(
        tmp_path, "--backend", f"{ANSWERS}:unavailable", PYTHONPATH=str(ROOT)
    )
    assert code == 3
    assert "no such accelerator; plug one in" in out


def test_unnamed_is_4(tmp_path: Path) -> None:
    code, out = in_an_empty_folder(tmp_path)
    assert code == 4
    assert "--backend" in out


def test_the_environment_names_a_backend_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUPELO_BACKEND", f"{ANSWERS}:unavailable")
    assert main([]) == 3


@pytest.mark.parametrize(
    "args",
    [
        ["--backend", "nowhere"],
        ["--backend", "no.such.module:backend"],
        ["--backend", f"{ANSWERS}:nothing"],
        ["--backend", "cpu", "--level", "0,9"],
        ["--backend", "cpu", "--expect", "/no/such/file.toml"],
    ],
)
def test_wrong_usage_is_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert capsys.readouterr().err


def test_an_unknown_option_is_2() -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--frontend", "cpu"])


@pytest.mark.parametrize("answer", ["silent", "raising", "something_else"])
def test_a_factory_that_breaks_the_contract_is_1(answer: str) -> None:
    assert main(["--backend", f"{ANSWERS}:{answer}"]) == 1


def test_a_failure_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", f"{ANSWERS}:bad", "--only", "ops/rms_norm"]) == 1
    assert f"FAILED {RED[0]}: output 0 at" in capsys.readouterr().out


def test_shares_together_are_all_cases(tmp_path: Path) -> None:
    args = ["--backend", f"{ANSWERS}:bad", "--only", "ops/rms_norm", "--report", str(tmp_path)]
    ran = []
    for share in ("1/1", "1/3", "2/3", "3/3"):
        main([*args, "--share", share])
        cases = json.loads((tmp_path / "conformance.json").read_text())["cases"]
        ran.append([case["id"] for case in cases])
    whole, *shares = ran
    assert shares == [whole[0::3], whole[1::3], whole[2::3]]


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b", "1/2/3", ""])
def test_a_share_that_is_none_is_usage(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", f"{ANSWERS}:good", "--share", share]) == 2
    assert f"--share {share}: allowed: K/N" in capsys.readouterr().err


def test_a_failure_that_is_known_of_another_share_is_no_matter(tmp_path: Path) -> None:
    args = expect(tmp_path, *RED)
    assert [main([*args, "--share", f"{k}/2"]) for k in (1, 2)] == [0, 0]


def test_nothing_passed_is_1() -> None:
    assert main(["--backend", f"{ANSWERS}:good", "--only", "no/such/case"]) == 1


def expect(folder: Path, *ids: str) -> list[str]:
    """Arguments for the mutant's red suite with these failures known."""
    path = folder / "conformance.toml"
    path.write_text("".join(ENTRY.format(id=i) for i in ids), encoding="utf-8")
    return ["--backend", f"{ANSWERS}:bad", "--only", "ops/rms_norm", "--expect", str(path)]


def test_known_failures_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(expect(tmp_path, *RED)) == 0
    assert "4 known failure" in capsys.readouterr().out


def test_an_unlisted_failure_is_red_beside_known_ones(tmp_path: Path) -> None:
    assert main(expect(tmp_path, *RED[:3])) == 1


@pytest.mark.parametrize(
    ("stale", "why"),
    [
        ("ops/rms_norm/float32/typical/chosen", "it passes"),
        ("ops/rms_norm/float32/no_such_sample/chosen", "no such case"),
        ("ops/rms_norm/float32/batch_invariant", "it is skipped"),
    ],
)
def test_a_stale_entry_is_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stale: str, why: str
) -> None:
    assert main(expect(tmp_path, *RED, stale)) == 1
    out = capsys.readouterr().out
    assert f"UNEXPECTED PASS {stale}" in out
    assert why in out


def test_entries_of_levels_that_are_not_run_are_left_alone(tmp_path: Path) -> None:
    assert main([*expect(tmp_path, *RED, "attention/one_token"), "--level", "1"]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "known_failure = 3",
        "[other]\nx = 1",
        "[[known_failure]]\nid = 'a'",
        ENTRY.format(id=""),
        ENTRY.format(id="a") * 2,
        ENTRY.format(id="a").replace("2026-01-31", "'today'"),
        "not toml",
    ],
)
def test_a_malformed_list_is_2(tmp_path: Path, text: str) -> None:
    path = tmp_path / "conformance.toml"
    path.write_text(text, encoding="utf-8")
    assert main(["--backend", f"{ANSWERS}:good", "--expect", str(path)]) == 2


def test_the_reports_tell_the_same_story(tmp_path: Path) -> None:
    args = expect(tmp_path, *RED[:2])
    assert main([*args, "--report", str(tmp_path / "out")]) == 1
    data = json.loads((tmp_path / "out" / "conformance.json").read_text())
    assert data["green"] is False
    assert data["counts"]["failed"] == 2
    assert data["counts"]["known failure"] == 2
    assert data["backend"]["capabilities"]["dtypes"] == ["float32"]
    (row,) = data["ops"]
    assert (row["op"], row["tier"], row["kernel"]) == ("rms_norm", "vendor", "mutant_rms_norm")
    assert row["failed"] == 2
    assert 0 <= row["max_error"] < 1e-5
    root = ElementTree.parse(tmp_path / "out" / "conformance.xml").getroot()
    (suite,) = root.findall("testsuite")
    assert int(suite.attrib["tests"]) == len(data["cases"])
    failures = [
        c.attrib["classname"] for c in suite.iter("testcase") if c.find("failure") is not None
    ]
    assert sorted(failures) == sorted(i.rpartition("/")[0].replace("/", ".") for i in RED[2:])
    page = (tmp_path / "out" / "conformance.md").read_text()
    assert "RED" in page.splitlines()[0]
    assert all(f"`{name}`" in page for name in RED)
    assert "| rms_norm | float32 | vendor | mutant_rms_norm |" in page


def test_importing_a_module_that_opens_a_device_is_red(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/ptmx").exists():
        pytest.skip("there is no /dev/ptmx to open")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from tests.kit.mutants import BASE

    source = "tests.kit.opens_a_device:backend"
    report = run_kit(Target(BASE, source), [0], only="contract/import")
    (result,) = report.results
    assert result.status is Status.FAILED
    assert "/dev/ptmx" in result.message
