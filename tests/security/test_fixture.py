"""The fixture itself: it has to see what it is there to see."""

import httpx
import pytest
from tests.security.guarded import Guarded


def test_streams_that_are_hurt_are_noticed(served: Guarded) -> None:
    with pytest.raises(AssertionError, match="background streams changed"), served.besieged():
        _abort_one(served)
    served.audit()


def test_a_request_that_still_runs_is_noticed(served: Guarded) -> None:
    body = {"prompt": "the", "max_tokens": 400, "n": 32, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", served.url + "/v1/completions", json=body) as reply:
        parts = reply.iter_raw()  # closes the connection when it is gone
        next(parts)
        assert served.leftovers()["running"] > 0
        with pytest.raises(AssertionError, match="left behind"):
            served.audit(limit_s=0)
        parts.close()
    served.audit()


def test_the_streams_run_at_the_same_time(served: Guarded) -> None:
    """In quiet one after another, beside a test together: otherwise they would prove little."""
    with served.streams.running():
        served.wait_for(lambda: served.metric("tupelo:num_running") >= 4, 30)


def _abort_one(server: Guarded) -> None:
    seen = server.metric("sglang:num_aborted_requests_total")
    while server.metric("sglang:num_aborted_requests_total") == seen:
        server.post("/abort_request", {"abort_all": True})
