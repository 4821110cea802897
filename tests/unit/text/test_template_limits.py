"""Hostile chat templates: escapes are refused, costs are bounded, and the next render works."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tupelo.errors import TemplateError
from tupelo.text.templates import TemplateRenderer

USER = [{"role": "user", "content": "Hi"}]
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)


@pytest.fixture(scope="module")
def small() -> Iterator[TemplateRenderer]:
    """Tight limits; the time is still ample for a template that does no harm."""
    renderer = TemplateRenderer(time_limit_s=2.0, max_output_bytes=1 << 20)
    yield renderer
    renderer.close()


def still_works(renderer: TemplateRenderer) -> bool:
    return renderer.render("{{ messages[0].content }}!", messages=USER) == "Hi!"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages | attr('__init__') }}",
        "{{ messages | map(attribute='__class__') | list }}",
        "{{ messages | map('attr', '__class__') | list }}",
        "{{ [''] | groupby('__class__') }}",
        "{{ [''] | sort(attribute='__class__') }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
        "{{ strftime_now.__closure__ }}",
        "{{ range.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m._func }}",
        "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
        "{{ '{0.__class__}'.format('') }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{{ ('{0.__class__}' | attr('format'))('') }}",
        "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
        "{{ ''.__doc__ }}",
        "{{ dict.mro() }}",
        "{{ dict.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{% set x = {}.pop %}{{ x('a') }}",
        "{{ (1).__reduce__() }}",
        "{{ ''.join.__self__.__class__ }}",
    ],
)
def test_escapes(small: TemplateRenderer, template: str) -> None:
    with pytest.raises(TemplateError, match=r"sandbox forbids|is undefined"):
        small.render(template, messages=USER)
    assert still_works(small)


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler }}{{ joiner }}{{ lipsum }}",
        "{{ cycler is defined or joiner is defined or lipsum is defined }}",
    ],
)
def test_helpers_that_nobody_needs_are_absent(small: TemplateRenderer, template: str) -> None:
    assert small.render(template, messages=USER) in ("", "False")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ENDLESS, "longer than 2 s"),
        ("{{ 99 ** 99999999 }}", "longer than 2 s|more memory|process down"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "larger than 1048576 bytes"),
        ("{{ 'é' * 600000 }}", "larger than 1048576 bytes"),
        ("{{ 'x' * 10 ** 10 }}", "more memory"),
        ("{{ 'x' | center(10 ** 10) }}", "more memory"),
        ("{{ '%9999999999d' % 1 }}", "more memory|OverflowError|ValueError"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply"),
        ("{% if 1 %}" * 5000 + "{% endif %}" * 5000, "nested too deeply"),
        ("{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}", "nested too deeply"),
        ("{{ " + "-" * 20000 + "1 }}", "nested too deeply|process down"),
        ("{{ " + "[" * 150 + "]" * 150 + " }}", "nested too deeply|syntax|cannot render"),
        ("x" * (1 << 21), "longer than 1048576 characters"),
    ],
    ids=range(14),
)
def test_costs(small: TemplateRenderer, template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        small.render(template, messages=USER)
    assert still_works(small)


def test_deep_conversation(small: TemplateRenderer) -> None:
    deep: Any = "x"
    for _ in range(800):
        deep = {"a": deep}
    messages = [{"role": "user", "content": "x", "deep": deep}]
    with pytest.raises(TemplateError, match="nested too deeply"):
        small.render(
            "{% macro walk(v) %}{{ walk(v.a) if v is mapping else v }}{% endmacro %}"
            "{{ walk(messages[0].deep) }}",
            messages=messages,
        )
    assert still_works(small)


def test_event_loop_goes_on(small: TemplateRenderer) -> None:
    """Three endless templates on two workers, in threads: the loop keeps ticking meanwhile."""

    async def scenario() -> tuple[list[BaseException | str], int, str]:
        ticks = 0
        renders = [
            asyncio.create_task(asyncio.to_thread(small.render, ENDLESS, messages=USER))
            for _ in range(3)
        ]
        while not all(task.done() for task in renders):
            await asyncio.sleep(0.01)
            ticks += 1
        results = await asyncio.gather(*renders, return_exceptions=True)
        after = await asyncio.to_thread(small.render, "fine", messages=USER)
        return results, ticks, after

    results, ticks, after = asyncio.run(scenario())
    assert all("longer than 2 s" in str(result) for result in results)
    assert ticks > 20
    assert after == "fine"


def test_threads_share_the_pool(small: TemplateRenderer) -> None:
    template = "{{ n }}{% for i in range(500) %}{% endfor %}"
    with ThreadPoolExecutor(16) as pool:
        futures = [
            pool.submit(small.render, template, messages=USER, template_kwargs={"n": n})
            for n in range(200)
        ]
        assert [future.result() for future in futures] == [str(n) for n in range(200)]


def test_closed_renderer_refuses() -> None:
    renderer = TemplateRenderer()
    assert still_works(renderer)
    renderer.close()
    renderer.close()
    with pytest.raises(TemplateError, match="closed"):
        renderer.render("x", messages=USER)


def test_worker_holds_no_secrets_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUPELO_TEST_SECRET", "sesame")
    before = set(children(os.getpid()))
    renderer = TemplateRenderer(time_limit_s=10.0)
    assert still_works(renderer)
    (worker,) = set(children(os.getpid())) - before
    assert b"sesame" not in Path(f"/proc/{worker}/environ").read_bytes()
    assert "torch" not in Path(f"/proc/{worker}/maps").read_text()
    limits = Path(f"/proc/{worker}/limits").read_text()
    assert "Max open files            3 " in limits
    renderer.close()
    assert worker not in children(os.getpid())


@pytest.mark.parametrize("template", ["idle", ENDLESS], ids=["idle", "at-work"])
def test_worker_goes_with_its_parent(template: str) -> None:
    """The parent is killed outright; its worker ends by itself, even in an endless loop."""
    program = f"""
        from tupelo.text.templates import TemplateRenderer
        renderer = TemplateRenderer(time_limit_s=1.0)
        renderer.render("x", messages=[])
        print("ready", flush=True)
        while True:
            try:
                renderer.render({template!r}, messages=[])
            except Exception:
                pass
            if {template == "idle"}:
                import time; time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        time.sleep(0.2)
        workers = children(parent.pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(running(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 1
    assert not running(workers[0])


def children(pid: int) -> list[int]:
    """Process ids whose parent is ``pid``."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
