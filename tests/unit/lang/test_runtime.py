"""A server that ``Runtime`` starts: what it is told, and how."""

import sys
from pathlib import Path

import pytest

from tupelo.errors import EngineUnavailable
from tupelo.lang import Runtime


def test_options_become_flags_and_keys_stay_out_of_sight(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In place of a server: a script that says how it was called, and ends."""
    script = tmp_path / "python"
    lines = ("#!/bin/sh", 'echo "$@"', 'echo "$TUPELO_API_KEY $TUPELO_ADMIN_API_KEY"', "exit 3")
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EngineUnavailable, match="ended with 3") as failed:
        Runtime(
            model_path="a/model",
            api_key="users-key",
            admin_api_key="admins-key",
            page_size=16,
            batch_invariant=True,
            enable_playground=False,
            tokenizer=None,
            cors_origins=["http://a.example", "http://b.example"],
        )
    _, command, keys = str(failed.value).strip().split("\n")
    assert command == (
        "-m tupelo.launch_server --model-path a/model --port 0 --page-size 16 --batch-invariant "
        "--no-enable-playground --cors-origins http://a.example http://b.example"
    )
    assert keys == "users-key admins-key"
