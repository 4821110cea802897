"""``python -m tupelo.launch_server --model-path X`` is ``tupelo serve --model-path X``.

Owns nothing: ``serve`` comes with another package and is found by its entry point.
"""

import sys
from collections.abc import Sequence

from tupelo import cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``serve`` with ``argv``, by default the process's own arguments; its exit code."""
    return cli.main(["serve", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
