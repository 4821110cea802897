"""A headless Chromium on the page of a real server, watched for errors and for other origins.

``CHROMIUM`` names the browser's program. Its K/V pool is small, so that prefixes are evicted.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.harness import ServerProcess

SETTINGS = '{"numbers": {"max_tokens": "24", "temperature": "0"}}'
ROOT = Path(__file__).resolve().parents[2]

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def served(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo model with room for 640 tokens."""
    flags = ["--context-length", "640", "--max-total-tokens", "640"]
    with ServerProcess(demo_gguf, tmp_path_factory.mktemp("server"), *flags) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The browser, from Playwright."""
    reason = "Playwright is not installed: ci/web.sh brings it"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
    if program is None:
        pytest.skip("there is no Chromium here; CHROMIUM names one")
    # A container's root cannot have the sandbox; the pages are our own.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=flags)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, served: ServerProcess) -> Iterator[Open]:
    """Open the page; afterwards nothing may have gone wrong in it, nor gone to another origin.

    ``settings``: as the page keeps them. ``before``: called with the page before it loads; what
    such a test provokes (a status that the browser notes) it names in ``expected``.
    """
    contexts, errors, places = [], [], []
    expected: list[str] = []

    def opening(
        *,
        settings: str = SETTINGS,
        before: Callable[[Any], None] | None = None,
        expects: str = "",
        **options: Any,
    ) -> Any:
        options = {"viewport": {"width": 1360, "height": 860}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        context.add_init_script(
            f"localStorage['tupelo.settings'] ||= {settings!r}; addEventListener("
            "'securitypolicyviolation', e => console.error('policy', e.violatedDirective))"
        )
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: places.append(request.url))
        if expects:
            expected.append(expects)
        if before is not None:
            before(page)
        page.goto(served.url + "/")
        page.locator(".dot.up, .banner.key").first.wait_for()
        return page

    yield opening
    for context in contexts:
        context.close()
    assert [text for text in errors if not any(e in text for e in expected)] == []
    assert places
    others = [url for url in places if not url.startswith((served.url + "/", "data:"))]
    assert others == []


def say(page: Any, text: str, *, wait: bool = True) -> Any:
    """Write a message and send it; the element of the reply, by default once that has ended."""
    number = page.locator(".turn.assistant").count()
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")
    reply = page.locator(".turn.assistant").nth(number)
    reply.wait_for()
    if wait:
        page.locator("button.stop").wait_for(state="detached")
    return reply


def until(page: Any, expression: str) -> None:
    """Wait until this holds in the page; Playwright's own way of waiting would need its ``eval``,
    which the page's policy forbids."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(expression)
