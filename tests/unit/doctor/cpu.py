"""CPU backend: without a compiler, or with a broken one, torch does the work."""

from tests.unit.doctor.faked import Environment

from tupelo_cpu.native.bindings import native_library

ANEW = {"tupelo_cpu.native_library": native_library.__wrapped__}
"""As a new process does it: the answer is kept otherwise."""

FAILS = '[ "$1" = --version ] && exit 0\necho "cc1plus: fatal error: no space left" >&2\nexit 1'

ENVIRONMENTS = (
    Environment(
        id="no_compiler",
        backend="cpu",
        says="native kernels unavailable: no C++ compiler found on PATH",
        patches=ANEW,
        programs={},
    ),
    Environment(
        id="broken_compiler",
        backend="cpu",
        says="failed (1): cc1plus: fatal error: no space left",
        patches=ANEW,
        programs={"c++": FAILS},
    ),
)
