"""``tupelo serve`` says where the time until it served went."""

import re
from datetime import datetime

from tests.system.harness import ServerProcess


def test_phases_explain_the_start(server: ServerProcess) -> None:
    server.wait_for(lambda: "serving at" in server.log, 30)
    (line,) = [line for line in server.log.splitlines() if "start-up: " in line]
    phases = re.findall(r"[:,] ([a-z' ]+) (\d+\.\d+) s", line.partition("start-up")[2])
    names = [name for name, _ in phases]
    assert names[:2] == ["start the server", "start the engine's process"]
    assert {"load the weights", "read the tokenizer"} <= set(names)
    said_s = datetime.fromisoformat(line.split()[0]).timestamp()
    wall_s = said_s - server.process.create_time()
    explained_s = sum(float(seconds) for _, seconds in phases)
    assert 0.95 * wall_s < explained_s < 1.05 * wall_s, line
