"""Writes docs/options.md from the declarations of the options: ``python ci/options_page.py``.

With ``--check`` it writes nothing and says whether the page is up to date.
"""

import sys
from pathlib import Path

from tupelo.commands.options import markdown_table
from tupelo.config import EngineConfig
from tupelo_server.config import ServerConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"

_TEMPLATE = """# Options

Written by `python ci/options_page.py` from the declarations in `tupelo/config.py` and
`tupelo_server/config.py`; do not edit it here.

A switch is turned on by its flag and off by `--no-` and its name. `MODEL` may be given without
`--model`. `tupelo COMMAND --help` says which of these a command takes.

## Engine

For `serve`, `generate` and `plan`; in Python, the fields of `tupelo.EngineConfig`.

{engine}

## HTTP server

For `serve`.

{server}

## Environment variables

| variable | meaning |
| --- | --- |
| `TUPELO_BACKEND` | backend to use where `--backend` does not say |
| `TUPELO_CACHE` | folder of downloads and built kernels; else `~/.cache/tupelo` |
| `TUPELO_OFFLINE` | `1`: never download anything |
| `TUPELO_API_KEY` | keys that open the API, where `--api-key` does not say |
| `TUPELO_ADMIN_API_KEY` | admin keys, where `--admin-api-key` does not say |

The Hugging Face hub's own variables, such as `HF_HOME` and `HF_TOKEN`, apply to models from there;
the demo model comes through pip, whose settings apply to it.
"""


def render() -> str:
    """The page as it should be."""
    engine, server = markdown_table(EngineConfig), markdown_table(ServerConfig)
    return _TEMPLATE.format(engine=engine, server=server)


def main() -> int:
    """Write the page, or with ``--check`` compare it; the exit code."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(render(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == render():
        return 0
    print("docs/options.md is not up to date; run: python ci/options_page.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
