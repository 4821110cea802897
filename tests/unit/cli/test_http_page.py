"""docs/http-api.md says what the routes and bodies say."""

import subprocess
import sys
from pathlib import Path

from fastapi.routing import APIRoute

from tupelo_server.app import ROUTERS

ROOT = Path(__file__).resolve().parents[3]


def test_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "ci" / "http_page.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_route_and_field_of_a_body_is_there() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    routes = [r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute)]
    assert len(routes) > 40
    assert [route.path for route in routes if f"`{route.path}`" not in page] == []
