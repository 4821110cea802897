"""``tupelo serve`` says where the time until it served went."""

import re
import time
from datetime import datetime
from pathlib import Path

import pytest
from tests.system.harness import ServerProcess


def start_up(server: ServerProcess) -> tuple[str, dict[str, float], float]:
    """The line of the log, the seconds of each phase, and those in all."""
    server.wait_for(lambda: "serving at" in server.log, 30)
    (line,) = [line for line in server.log.splitlines() if "start-up: " in line]
    told = line.partition("start-up")[2]
    phases = re.findall(r"[:,] ([a-z' ]+) (\d+\.\d+) s", told)
    (total,) = re.findall(r"; (\d+\.\d+) s in all", told)
    return line, {name: float(seconds) for name, seconds in phases}, float(total)


def test_phases_are_told(server: ServerProcess) -> None:
    line, phases, total = start_up(server)
    names = list(phases)
    assert names[:2] == ["start the server", "start the engine's process"]
    assert {"load the weights", "read the tokenizer"} <= set(names)
    rounding = 0.005 * (len(phases) + 1) + 1e-6
    assert abs(sum(phases.values()) - total) <= rounding, line


@pytest.mark.long
def test_phases_explain_the_start(demo_gguf: Path, tmp_path: Path) -> None:
    """At least 95 % of the time that whoever starts it waits; needs a machine that is not busy."""
    began_s = time.time()
    with ServerProcess(demo_gguf, tmp_path) as server:
        line, phases, _ = start_up(server)
        wall_s = datetime.fromisoformat(line.split()[0]).timestamp() - began_s
    assert 0.95 * wall_s < sum(phases.values()) <= wall_s + 0.05, line
