"""Takes the pictures of docs/images from a server that runs: ``python ci/web_screenshots.py URL``.

Give that server little room (``--context-length 1024 --max-total-tokens 1024``), so that its prefix
tree is seen whole. Needs playwright and a Chromium (``CHROMIUM`` names one).
"""

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SYSTEM = "You are a guide to the trees of the world. Answer shortly, with facts and without lists."
QUESTIONS = ("How old does an oak get?", "How tall is a redwood?", "Where do mangroves grow?")


def main() -> int:
    """Take them all."""
    url = sys.argv[1].rstrip("/")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    httpx.post(f"{url}/flush_cache")
    for question in QUESTIONS:
        _ask(url, question, 24)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        desktop = {"viewport": {"width": 1360, "height": 900}}
        _busy(browser.new_context(**desktop, color_scheme="light"), url)
        _likely(browser.new_context(**desktop, color_scheme="dark"), url)
        phone = {"viewport": {"width": 390, "height": 800}, "is_mobile": True}
        _phone(browser.new_context(**phone, color_scheme="light"), url)
        browser.close()
    return 0


def _busy(context: Any, url: str) -> None:
    """A reply with code, while others are served."""
    page = _open(context, url, '{"numbers": {"max_tokens": "80", "temperature": "0"}}')
    _say(page, "Write a Python function that says whether a number is prime.")
    threads = [threading.Thread(target=_ask, args=(url, q, 60)) for q in QUESTIONS]
    for thread in threads:
        thread.start()
    _say(page, "Which trees keep their leaves in winter?", wait=False)
    page.locator(".turn.running .markdown").wait_for()
    page.wait_for_timeout(2500)
    page.screenshot(path=IMAGES / "playground-light.png")
    for thread in threads:
        thread.join()
    context.close()


def _likely(context: Any, url: str) -> None:
    """A reply as tokens with probabilities."""
    settings = '{"numbers": {"max_tokens": "40", "seed": "7"}, "probabilities": true}'
    page = _open(context, url, settings)
    reply = _say(page, "Describe a tupelo tree in a sentence.")
    page.wait_for_timeout(800)
    reply.locator(".token").nth(6).hover()
    page.screenshot(path=IMAGES / "playground-dark.png")
    context.close()


def _phone(context: Any, url: str) -> None:
    page = _open(context, url, '{"numbers": {"max_tokens": "40", "temperature": "0"}}')
    _say(page, "What does a radix tree share?", wait=False)
    page.locator(".turn.running .markdown").wait_for()
    page.get_by_role("tab", name="Engine").click()
    page.wait_for_timeout(2500)
    page.screenshot(path=IMAGES / "playground-phone.png")
    context.close()


def _open(context: Any, url: str, settings: str) -> Any:
    context.add_init_script(f"localStorage['tupelo.settings'] = {settings!r}")
    page = context.new_page()
    page.set_default_timeout(300_000)
    page.goto(url + "/")
    page.locator(".dot.up").wait_for()
    return page


def _say(page: Any, text: str, *, wait: bool = True) -> Any:
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")
    page.locator("button.stop").wait_for()
    if wait:
        page.locator("button.stop").wait_for(state="detached")
    return page.locator(".turn.assistant").last


def _ask(url: str, question: str, max_tokens: int) -> None:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    body = {"messages": messages, "max_tokens": max_tokens, "ignore_eos": True}
    httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()


if __name__ == "__main__":
    sys.exit(main())
