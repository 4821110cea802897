"""Triton's interpreter for this folder, as in ``tests/unit/triton``: chosen before any import."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
