"""The playground in a browser, with the demo model behind it."""

import json
from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess
from tests.web.conftest import ROOT, Open, say, until

pytestmark = pytest.mark.long

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "size": {"enum": [1, 2]}},
    "required": ["city", "size"],
    "additionalProperties": False,
}
LENGTHS = """() => {
    window.lengths = [];
    new MutationObserver(() => {
        const turn = document.querySelector('.turn.assistant.running .markdown');
        if (turn) window.lengths.push(turn.textContent.length);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


def test_a_reply_streams(open_page: Open) -> None:
    page = open_page()
    page.evaluate(LENGTHS)
    reply = say(page, "Count from one to ten.")
    lengths = page.evaluate("window.lengths")
    assert len(set(lengths)) >= 3, "it came in pieces"
    assert lengths[0] < max(lengths)
    assert "tokens" in reply.locator(".figures").inner_text()
    page.get_by_role("button", name="Try again").click()
    page.locator("button.stop").wait_for(state="detached")
    assert page.locator(".turn").count() == 2
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".turn").count() == 0


@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_ends_it_on_the_server_too(open_page: Open, served: ServerProcess, by: str) -> None:
    page = open_page(settings='{"numbers": {"max_tokens": "400", "temperature": "0"}}')
    reply = say(page, f"Write a long story about a {by}.", wait=False)
    reply.locator(".markdown").wait_for()
    if by == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    page.locator("button.stop").wait_for(state="detached")
    assert "Stopped." in reply.inner_text()
    assert reply.locator(".markdown").inner_text()
    served.wait_for(lambda: running(served) == 0, 30)
    say(page, "Thanks.", wait=False)
    assert page.locator(".turn.assistant").count() == 2
    page.keyboard.press("Escape")
    served.wait_for(lambda: running(served) == 0, 30)


def running(served: ServerProcess) -> int:
    found: int = httpx.get(f"{served.url}/live").json()["num_running"]
    return found


def test_a_schema_makes_valid_json(open_page: Open) -> None:
    page = open_page(settings='{"numbers": {"max_tokens": "60", "temperature": "0"}}')
    page.get_by_role("tab", name="Settings").click()
    page.get_by_label("JSON by a schema").check()
    area = page.locator("textarea.mono")
    area.fill("{")
    assert area.get_attribute("aria-invalid") == "true"
    area.fill(json.dumps(SCHEMA))
    reply = say(page, "Name a city, and its size.")
    assert reply.locator(".json-reply").get_attribute("data-valid") == "true"
    value = json.loads(reply.locator("pre").inner_text())
    assert set(value) == {"city", "size"}
    assert value["size"] in (1, 2)


def test_tokens_show_their_probabilities(open_page: Open) -> None:
    page = open_page(settings='{"numbers": {"max_tokens": "6"}, "probabilities": true}')
    reply = say(page, "Say hello.")
    tokens = reply.locator(".token")
    assert 1 < tokens.count() <= 7
    tokens.nth(1).hover()
    assert reply.locator(".alternative:not(.said-token)").count() >= 5
    assert "%" in reply.locator(".alternatives").inner_text()
    reply.locator(".tokens").focus()
    page.keyboard.press("ArrowLeft")
    assert "chosen" in (tokens.nth(0).get_attribute("class") or "")


def test_the_tree_grows_and_evicts(open_page: Open, served: ServerProcess) -> None:
    assert httpx.post(f"{served.url}/flush_cache").status_code == 200
    page = open_page()
    page.get_by_text("Nothing is cached").wait_for()
    say(page, "Say hello to a friend who has come from far away.")
    page.wait_for_selector(".tree svg")
    before = int(page.locator(".tree svg").get_attribute("data-nodes"))
    assert before >= 1
    until(page, "document.querySelectorAll('.timeline rect').length > 4")
    evicted = "document.querySelector('[data-tile=evicted] b').textContent"
    first = int(page.evaluate(evicted))
    page.evaluate(
        "() => { window.reddened = false; new MutationObserver(() => {"
        "  if (document.querySelector('.node.evicted')) window.reddened = true;"
        "}).observe(document.body, {subtree: true, childList: true, attributes: true}); }"
    )
    for number in range(4):
        body = {"prompt": f"{number} " + "river stone " * 100, "max_tokens": 1}
        assert httpx.post(f"{served.url}/v1/completions", json=body, timeout=120).is_success
        page.wait_for_timeout(700)
    until(page, f"Number({evicted}) > {first}")
    until(page, "window.reddened")
    assert int(page.locator(".tree svg").get_attribute("data-nodes")) >= 1


def test_nobody_is_asked_while_nobody_looks(open_page: Open) -> None:
    page = open_page(**PHONE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(1500)
    assert asked == [], "the chat alone asks for nothing"
    page.get_by_role("tab", name="Engine").click()
    page.get_by_text("Prefix tree").wait_for()
    page.get_by_role("button", name="Pause").click()
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(1500)
    assert asked == []


def events(*chunks: dict[str, Any]) -> str:
    """A scripted stream of chat chunks."""
    lines = [json.dumps({"choices": [{"index": 0, **chunk}]}) for chunk in chunks]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"])


def script(page: Any, *replies: str) -> list[dict[str, Any]]:
    """Answer chats with these streams; the bodies that come."""
    bodies: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        bodies.append(route.request.post_data_json)
        body = replies[len(bodies) - 1]
        route.fulfill(body=body, content_type="text/event-stream")

    page.route("**/v1/chat/completions", answer)
    return bodies


HOSTILE = """# Hi <img src=x onerror="window.hacked = 1">

<script>window.hacked = 1</script>

<iframe srcdoc="<script>parent.hacked = 1</script>"></iframe> <svg onload="window.hacked = 1">

[a](javascript:window.hacked=1) [b](data:text/html,<script>window.hacked=1</script>)
[c](JaVaScRiPt:window.hacked=1) ![d](https://evil.example/p.png) [e](https://example.org/)
&#106;avascript:x <https://example.com> [f](//evil.example/) <a href="javascript:1">g</a>

| h <style>*{display:none}</style> | i |
| --- | --- |
| `<b>` | &lt;b&gt; |

```html
</code></pre><script>window.hacked = 1</script>
```
"""


def test_hostile_markdown_stays_text(open_page: Open) -> None:
    page = open_page()
    deep = "> " * 400 + "deep\n\n" + "*" * 3000 + "\n\n" + "[" * 2000 + "](" * 200
    chunks = [{"delta": {"content": part}} for part in (HOSTILE[:100], HOSTILE[100:], deep)]
    script(page, events(*chunks, {"delta": {}, "finish_reason": "stop"}))
    reply = say(page, "Attack me.")
    assert page.evaluate("window.hacked") is None
    forbidden = "script, img, iframe, svg, style, object, embed, form, [onerror], [onload], [style]"
    assert reply.locator(".markdown").locator(forbidden).count() == 0
    links = reply.locator(".markdown a").evaluate_all("all => all.map(a => a.href)")
    assert links == ["https://evil.example/p.png", "https://example.org/", "https://example.com/"]
    assert '<img src=x onerror="window.hacked = 1">' in reply.inner_text()
    assert reply.locator("table").count() == 1
    assert "</code></pre><script>" in reply.locator("pre").first.inner_text()


def test_tool_calls_are_shown_and_answered(open_page: Open) -> None:
    page = open_page(before=lambda page: pretend(page, tool_call_parser="hermes"))
    call = {"index": 0, "id": "call_1", "function": {"name": "get_weather", "arguments": '{"ci'}}
    more = {"index": 0, "function": {"arguments": 'ty": "Oslo"}'}}
    bodies = script(
        page,
        events(
            {"delta": {"tool_calls": [call]}},
            {"delta": {"tool_calls": [more]}, "finish_reason": "tool_calls"},
        ),
        events({"delta": {"content": "It **rains**."}, "finish_reason": "stop"}),
    )
    page.get_by_role("tab", name="Settings").click()
    page.get_by_role("button", name="Insert an example").click()
    reply = say(page, "How is the weather in Oslo?")
    assert "get_weather" in reply.locator(".call").inner_text()
    assert json.loads(reply.locator(".call pre").inner_text()) == {"city": "Oslo"}
    page.get_by_label("Result of get_weather").fill("rain")
    page.get_by_role("button", name="Send results").click()
    page.locator(".markdown strong").wait_for()
    assert bodies[0]["tools"][0]["function"]["name"] == "get_weather"
    said = bodies[1]["messages"]
    assert said[-2]["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": '{"city": "Oslo"}',
    }
    assert said[-1] == {"role": "tool", "tool_call_id": "call_1", "content": "rain"}


def pretend(page: Any, **facts: Any) -> None:
    """Let the model have these properties."""

    def answer(route: Any) -> None:
        info = route.fetch().json()
        route.fulfill(json={**info, **facts})

    page.route("**/model_info", answer)


def test_images_only_where_the_model_sees(open_page: Open) -> None:
    blind = open_page()
    assert blind.get_by_text("Add an image").count() == 0
    page = open_page(before=lambda page: pretend(page, has_image_understanding=True))
    bodies = script(page, events({"delta": {"content": "A dot."}, "finish_reason": "stop"}))
    dot = ROOT / "docs" / "images" / "playground-light.png"
    page.locator("input[type=file]").set_input_files(dot)
    page.get_by_role("button", name="Remove image 1").wait_for()
    say(page, "What is this?")
    image, text = bodies[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What is this?"}


def test_a_key_is_asked_for_and_sent(open_page: Open) -> None:
    def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == "Bearer sk-right":
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "Unauthorized"})

    page = open_page(before=lambda page: page.route("**/model_info", guard), expects="401")
    page.get_by_label("API key").fill("sk-wrong")
    page.get_by_role("button", name="Open").click()
    page.get_by_text("does not know this key").wait_for()
    page.get_by_label("API key").fill("sk-right")
    page.keyboard.press("Enter")
    page.locator(".dot.up").wait_for()
    assert page.locator(".banner").count() == 0
    assert page.evaluate("Object.values(localStorage).join()").count("sk-right") == 0


def test_a_model_that_goes_and_comes_back(open_page: Open) -> None:
    gone: list[bool] = [True]

    def answer(route: Any) -> None:
        if gone[0]:
            route.fulfill(status=503, json={"error": {"message": "no model is loaded"}})
        else:
            info = route.fetch().json()
            route.fulfill(json={**info, "served_model_name": "another"})

    page = open_page(expects="503")
    page.route("**/model_info", answer)
    page.route("**/live*", answer)
    page.get_by_text("no model is loaded").first.wait_for()
    assert page.get_by_role("textbox", name="Your message").is_disabled()
    gone[0] = False
    page.unroute("**/live*")
    page.get_by_role("heading", name="another").wait_for()
    assert page.get_by_role("textbox", name="Your message").is_enabled()


def test_it_fits_a_phone(open_page: Open) -> None:
    page = open_page(**PHONE)
    say(page, "Hi")
    for name in ("Chat", "Engine", "Settings"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(700)
        assert page.evaluate("Math.max(document.documentElement.scrollWidth, innerWidth) <= 360"), (
            name
        )
    page.get_by_role("tab", name="Settings").press("ArrowRight")
    assert page.get_by_role("tab", name="Chat").get_attribute("aria-selected") == "true"
    box = page.get_by_role("textbox", name="Your message").bounding_box()
    assert box["y"] + box["height"] <= 740


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page: Open, scheme: str) -> None:
    axe = ROOT / "packages" / "server" / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed: ci/web.sh brings it")
    for shape in ({}, PHONE):
        settings = '{"numbers": {"max_tokens": "6"}, "probabilities": true}'
        page = open_page(settings=settings, color_scheme=scheme, bypass_csp=True, **shape)
        faults = found_by_axe(page, axe.read_text())
        say(page, "Say hello.")
        page.locator(".tokens").focus()
        page.keyboard.press("ArrowRight")
        faults += found_by_axe(page, axe.read_text())
        for name in ("Engine", "Settings"):
            page.get_by_role("tab", name=name).click()
            page.wait_for_timeout(1500)
            faults += found_by_axe(page, axe.read_text())
        assert faults == []


def found_by_axe(page: Any, axe: str) -> list[str]:
    page.evaluate(axe)
    report = page.evaluate("axe.run()")
    return [
        f"{fault['id']} ({fault['impact']}): {node['target']} {node['failureSummary']}"
        for fault in report["violations"]
        for node in fault["nodes"]
        if fault["impact"] in ("serious", "critical")
    ]
