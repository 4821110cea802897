"""``python -m tupelo.conformance``."""

import sys

from tupelo.conformance.cli import main

sys.exit(main())
