"""T9: paths that clients name lead nowhere but into the folders that the operator set.

Uploads and adapters have no route yet, which ``test_later_features`` shows.
"""

import os
from pathlib import Path

import pytest
from tests.security.guarded import Guarded, Keyed

ODD = [
    "..",
    "../..",
    "../../../../../../etc",
    "/etc",
    "/",
    "/proc/self",
    "/dev/zero",
    "~",
    "~root",
    "file:///etc",
    "..%2f..%2fetc",
    "%2e%2e/etc",
    "..\\..\\etc",
    "....//....//etc",
    ".\0./etc",
    "x\0",
    "//etc",
    "a/../../..",
    "link",
    "link/passwd",
    "outer_link",
    "loop",
    "fifo",
    "a" * 300,
    "a/" * 3000,
    "\ud7ff",
    "\u202e",
    "$HOME",
    "`id`",
    "|id",
    "https://127.0.0.1/x",
]


@pytest.fixture(scope="module")
def traps(keyed_served: Keyed) -> None:
    """Links and a pipe inside the root."""
    root = keyed_served.roots
    (root / "link").symlink_to("/etc")
    (root / "outer_link").symlink_to(root.parent)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "fifo")


@pytest.mark.usefixtures("traps")
def test_weights_are_read_nowhere_else(keyed: Keyed) -> None:
    for path in (*ODD, str(keyed.roots.parent), str(keyed.roots / "..")):
        reply = keyed.post(
            "/update_weights_from_disk", {"model_path": path}, headers=keyed.as_(keyed.root)
        )
        assert reply.status_code == 400, (path, reply.text)
        assert str(keyed.roots) not in reply.text.replace(path, "")
        assert "root:" not in reply.text


@pytest.mark.usefixtures("traps")
def test_profiles_are_written_nowhere_else(keyed: Keyed) -> None:
    before = _tree(keyed.roots.parent)
    for path in (*ODD, str(keyed.roots.parent), str(keyed.roots / "..")):
        body = {"output_dir": path, "num_steps": 1}
        reply = keyed.post("/start_profile", body, headers=keyed.as_(keyed.root))
        if reply.status_code == 200:  # an odd name for a folder inside
            assert ".." not in path.split("/")
            keyed.post("/stop_profile", {}, headers=keyed.as_(keyed.root))
        else:
            assert reply.status_code == 400, (path, reply.text)
            assert str(keyed.roots) not in reply.text.replace(path, "")
        prefix = {"profile_prefix": path, "num_steps": 1}
        reply = keyed.post("/start_profile", prefix, headers=keyed.as_(keyed.root))
        if reply.status_code == 200:
            assert "/" not in path
            keyed.post("/stop_profile", {}, headers=keyed.as_(keyed.root))
    assert _tree(keyed.roots.parent) == before


def test_a_server_without_roots_takes_no_path(server: Guarded) -> None:
    for route in ("/update_weights_from_disk", "/start_profile"):
        assert server.post(route, {"model_path": "x"}).status_code == 404


def _tree(folder: Path) -> set[str]:
    """Names beside the root, not in it."""
    return {path.name for path in folder.iterdir() if path.name != "server.log"}
