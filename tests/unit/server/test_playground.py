"""The page, its headers, and the route that feeds its live view."""

import re
from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

FILES = ["/", "/playground/app.js", "/playground/app.css"]
PAGES = {f"pages_{name}": [5] for name in ("total", "free", "owned", "cached", "evicted")}
STATS = {
    "num_running": 1,
    "num_waiting": 0,
    "paused": 0,
    "page_size": 16,
    **PAGES,
    **dict.fromkeys(("steps", "decode_tokens", "retractions", "finished", "aborted"), 3),
    "prefill_tokens": 7,
    "cached_tokens": 5,
}


def seen() -> dict[str, Any]:
    return {
        "stats": dict(STATS),
        "now_s": 1.0,
        "steps": [[1, 0.5, 0.1, 2, 30]],
        "requests": [{"phase": "decode"}],
        "tree": {"nodes": [[1, 0, 0, 4, 0, 0, 1, 2, 0]], "num_nodes": 9, "hidden": 0},
    }


@pytest.mark.parametrize("path", FILES)
def test_a_file_comes_with_strict_headers(service: Service, path: str) -> None:
    reply = service.http.get(path)
    assert reply.status_code == 200
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-frame-options"] == "DENY"
    assert reply.headers["referrer-policy"] == "no-referrer"
    policy = dict(
        part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in reply.headers["content-security-policy"]


def test_the_page_holds_no_script_and_names_no_other_place(service: Service) -> None:
    page = service.http.get("/").text
    assert re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL) == [""]
    assert sorted(re.findall(r'(?:src|href)="(\./[^"]*)"', page)) == [
        "./playground/app.css",
        "./playground/app.js",
    ]
    assert not re.search(r"\sstyle=|\son[a-z]+=", page)
    for path in FILES:
        text = service.http.get(path).text
        places = set(re.findall(r"https?://[\w.-]+", text))
        # Names of XML, and a library's advice where to report a defect of its own.
        assert places <= {"http://www.w3.org", "https://github.com"}, path


def test_a_copy_that_is_right_is_not_sent_again(service: Service) -> None:
    first = service.http.get("/playground/app.js")
    again = service.http.get("/playground/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert service.http.head("/").headers["etag"] == service.http.get("/").headers["etag"]


def test_the_page_is_open_and_its_data_is_not(start: Start) -> None:
    service = start(api_key="secret")
    assert all(service.http.get(path).status_code == 200 for path in FILES)
    assert service.http.get("/live").status_code == 401


def test_it_can_be_switched_off(start: Start) -> None:
    service = start(enable_playground=False)
    for path in FILES:
        assert service.http.get(path).status_code == 404
    service.engine.answers["live"] = seen()
    assert service.http.get("/live").status_code == 200


def test_live_view_without_keys_shows_all(service: Service) -> None:
    service.engine.answers["live"] = seen()
    body = service.http.get("/live?after=12").json()
    assert service.engine.controls == [("live", {"after": 12, "salt": None})]
    assert body["pages"] == dict.fromkeys(("total", "free", "owned", "cached", "evicted"), 5)
    assert body["tree"]["shown"] == "all"
    assert body["steps"] == [[1, 0.5, 0.1, 2, 30]]


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "", "9" * 19, "١"])
def test_a_bad_step_is_refused_by_name(service: Service, value: str) -> None:
    reply = service.http.get("/live", params={"after": value})
    assert reply.status_code == 400
    assert "after" in reply.json()["error"]["message"]


def test_users_see_their_own_branch_and_the_administrator_all(start: Start) -> None:
    service = start(api_key="one,two", admin_api_key="root")
    service.engine.answers["live"] = seen()
    salts = []
    for key in ("one", "two", "root"):
        headers = {"authorization": f"Bearer {key}"}
        assert service.http.get("/live", headers=headers).status_code == 200
        salts.append(service.engine.controls[-1][1]["salt"])
    assert salts[2] is None
    assert len({*salts}) == 3
    assert all(salts[:2])


def test_where_callers_share_the_cache_users_see_no_branch(start: Start) -> None:
    service = start(api_key="one,two", admin_api_key="root", share_cache_across_keys=True)
    service.engine.answers["live"] = seen()
    body = service.http.get("/live", headers={"authorization": "Bearer one"}).json()
    assert body["tree"] == {"nodes": [], "num_nodes": 0, "hidden": 0, "shown": "none"}
    assert (body["steps"], body["requests"]) == ([], [])
    assert body["counters"]["cached_tokens"] == body["counters"]["prefill_tokens"] == 0
    service.engine.answers["live"] = seen()
    body = service.http.get("/live", headers={"authorization": "Bearer root"}).json()
    assert (body["tree"]["shown"], len(body["tree"]["nodes"])) == ("all", 1)
