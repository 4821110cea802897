"""``python -m tupelo`` is ``tupelo``."""

import sys

from tupelo.cli import main

sys.exit(main())
