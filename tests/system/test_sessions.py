"""Sessions over a live server with the demo model: what was said before is not computed again."""

from typing import Any

import httpx
from tests.system.harness import ServerProcess

STORY = "Once upon a time a fox lived in a wood by the sea, and every morning it went out to"


def post(server: ServerProcess, path: str, **body: Any) -> Any:
    reply = httpx.post(server.url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json() if reply.content else None


def test_what_was_said_comes_from_the_cache(server: ServerProcess) -> None:
    """A request that goes on from another reads all of it, finds its whole pages in the cache, and
    has the tokens of one plain request; so does a branch, streamed, through OpenAI's route."""
    page = int(server.metric("tupelo:page_size"))
    name = post(server, "/open_session", capacity_of_str_len=10_000)
    params = {"max_new_tokens": 4, "temperature": 0, "ignore_eos": True}
    first = post(
        server, "/generate", text=STORY, sampling_params=params, session_params={"id": name}
    )
    place = {"id": name, "rid": first["meta_info"]["id"]}
    body = {"sampling_params": params, "session_params": place}
    item = post(server, "/generate", text=" and then", **body)
    begin = post(server, "/tokenize", prompt=STORY)["tokens"] + first["output_ids"]
    ids = begin + post(server, "/tokenize", prompt=" and then")["tokens"]
    known = (len(begin) - 1) // page * page  # the token sampled last has no K/V yet
    assert item["meta_info"]["prompt_tokens"] == len(ids)
    assert item["meta_info"]["cached_tokens"] >= known > 0
    plain = post(server, "/generate", input_ids=ids, sampling_params=params)
    assert plain["output_ids"] == item["output_ids"]
    stream = server.openai.completions.create(
        model="any",
        prompt=" until",
        max_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"session_params": place},
    )
    (usage,) = [chunk.usage for chunk in stream if chunk.usage]
    assert usage.prompt_tokens > len(begin)
    assert usage.prompt_tokens_details.cached_tokens >= known
    post(server, "/close_session", session_id=name)
