"""Triton's interpreter for this folder: kernels run on the CPU, in numpy.

The choice is made when a kernel is defined, so it is made here, before any test imports one.
bfloat16 is left out on purpose: the interpreter holds it as integers and adds those.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
