"""The commands that core brings, as their users call them."""

import io
import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tupelo import cli
from tupelo.backend import Backend, Capabilities, Unavailable, discovery

MACHINE = "no such device on this machine: plug one in"


def usable() -> Backend:
    return Backend(name="usable", device="cpu", capabilities=Capabilities(), notes=("has notes",))


def absent() -> Unavailable:
    return Unavailable(MACHINE)


def raising() -> Backend:
    raise OSError("libvendor.so: cannot open shared object file")


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Pretend that exactly these backends of this file are installed."""
    points = [EntryPoint(name, f"{__name__}:{name}", discovery.GROUP) for name in names]
    monkeypatch.setattr(discovery, "entry_points", lambda group: points)
    monkeypatch.delenv("TUPELO_BACKEND", raising=False)


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_doctor_tells_every_backend_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "usable", "absent", "raising")
    assert cli.main(["doctor", "--json"]) == 0
    report = output(capsys)
    assert report["chosen"] == "usable"
    reasons = {backend["name"]: backend["reason"] for backend in report["backends"]}
    assert reasons["absent"] == MACHINE
    assert "cannot open shared object file" in reasons["raising"]
    assert reasons["usable"] == ""
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert MACHINE in text
    assert "has notes" in text


def test_doctor_without_a_usable_backend_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, "absent")
    assert cli.main(["doctor"]) == 1
    assert "No backend can be chosen: no usable backend" in capsys.readouterr().out


def test_doctor_lists_kernels_versions_and_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "some").write_bytes(bytes(100))
    monkeypatch.setenv("TUPELO_CACHE", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    report = output(capsys)
    assert report["cache"] == {"path": str(tmp_path), "size_bytes": 100}
    assert {"tupelo-core", "tupelo-backend-cpu", "torch", "numpy"} <= set(report["packages"])
    (cpu,) = [backend for backend in report["backends"] if backend["name"] == "cpu"]
    from tupelo.ops import OPS

    assert set(cpu["kernels"]) == set(OPS)
    assert all(rows[-1]["tier"] == "reference" for rows in cpu["kernels"].values())


def test_pull_prints_where_a_local_model_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pull", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_pull_offline_with_an_empty_cache_says_what_to_do(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TUPELO_CACHE", str(tmp_path))
    if how == "environment":
        monkeypatch.setenv("TUPELO_OFFLINE", "1")
    assert cli.main(["pull", *(["--offline"] if how == "flag" else [])]) == 2
    assert "Run `tupelo pull` with a network first" in capsys.readouterr().err


def test_plan_divides_memory(demo_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = ["--max-total-tokens", "1600", "--page-size", "16", "--dtype", "float32"]
    assert cli.main(["plan", str(demo_gguf), *wanted, "--json"]) == 0
    plan = output(capsys)
    parts = ("weight_bytes", "kv_bytes", "workspace_bytes")
    assert plan["total_bytes"] == sum(plan[part] for part in parts)
    assert plan["kv_tokens"] == 1600
    # SmolLM2-135M: 30 layers, 3 K/V heads of 64, K and V, in float32.
    assert plan["bytes_per_token"] == 30 * 3 * 64 * 2 * 4
    assert plan["kv_bytes"] >= 1600 * plan["bytes_per_token"]
    assert plan["weight_bytes"] >= 134_515_008 * 4  # its number of parameters
    assert plan["model_context_length"] == 8192
    assert cli.main(["plan", "--model", str(demo_gguf), *wanted]) == 0
    assert "1,600 tokens fit, in pages of 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-total-tokens", "1000000000"], "1000000000 are needed"),
        (["--backend", "nothing"], "backend 'nothing' is not installed"),
        (["--context-length", "9999999"], "--context-length: 9999999 is above the model's 8192"),
        (["--page-size", "0"], "--page-size: got 0; must be at least 1"),
    ],
    ids=["memory", "backend", "context", "option"],
)
def test_plan_refuses_what_serve_would(
    argv: list[str], message: str, demo_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(demo_gguf), *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_generate_continues_a_prompt_from_standard_input(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("The capital of France is"))
    limits = ["--max-new-tokens", "5", "--max-total-tokens", "512", "--max-running-requests", "1"]
    argv = ["generate", str(demo_gguf), "--prompt", "-", "--temperature", "0", *limits]
    assert cli.main(argv) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(" Paris.")
    assert "[5 prompt tokens, 5 new ones in" in captured.err
    assert "ended by length]" in captured.err


def test_generate_refuses_bad_sampling_values(
    demo_gguf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", str(demo_gguf), "--prompt", "x", "--top-p", "1.5"]
    assert cli.main([*argv, "--max-total-tokens", "512"]) == 2
    assert "top_p: got 1.5; must be a number in (0, 1]" in capsys.readouterr().err


def test_conform_passes_its_arguments_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["conform", "--help"]) == 0
    assert "--report" in capsys.readouterr().out
    assert cli.main(["conform", "--backend", "cpu", "--level", "99"]) == 2


def test_plan_of_a_model_that_stores_nothing(
    minilm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", str(minilm), "--json"]) == 0
    plan = output(capsys)
    assert plan["task"] == "embed"
    assert plan["kv_bytes"] == plan["kv_tokens"] == 0
    assert plan["context_length"] == 256
    assert plan["weight_bytes"] >= 22_000_000 * 4  # its number of parameters, but for the pooler's
    assert cli.main(["plan", "--model", str(minilm)]) == 0
    assert "nothing of an input is stored" in capsys.readouterr().out


def test_generate_refuses_an_embedding_model(
    minilm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["generate", "--model", str(minilm), "--prompt", "hello"]) == 2
    assert "this model is for: embed" in capsys.readouterr().err
