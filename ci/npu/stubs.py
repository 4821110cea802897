"""Writes link stubs for CANN's shared libraries, so that the real torch-npu loads without CANN:
``python stubs.py FOLDER``, then ``LD_LIBRARY_PATH=FOLDER``.

They hold every symbol that torch-npu wants and neither it nor torch nor the C library has; each
answers 0, and there is one device. Nothing of CANN is in them, and nothing can be computed.
Needs gcc, nm and readelf.
"""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

OPENED_LATER = "libacl_tdt_channel.so"
"""Opened by name while torch-npu starts."""

SYSTEM = ("libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2")
IN_LIBC = ("libpthread.so.0", "libdl.so.2", "librt.so.1")
COUNT = "aclrtGetDeviceCount"

CODE = """
__asm__(".text\\n.globl {0}\\n.type {0},@function\\n{0}: xor %eax,%eax\\n ret\\n");
"""


def main() -> int:
    """Write the stubs, and say how many."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    ours = [*_package("torch_npu").glob("lib/*.so"), *_package("torch_npu").glob("_C*.so")]
    others = [*_package("torch").glob("lib/*.so*"), *map(_system, SYSTEM)]
    have = set().union(*(_symbols(file, "--defined-only") for file in [*ours, *others]))
    wanted = set().union(*(_symbols(file, "--undefined-only") for file in ours)) - have
    wanted = {s for s in wanted if not s.startswith(("_Py", "Py", "_ITM", "__"))} - {COUNT}
    libraries = set().union(*(_needed(file) for file in ours), {OPENED_LATER})
    libraries -= {file.name for file in [*ours, *others]} | set(IN_LIBC)
    source = folder / "stub.c"
    code = "".join(CODE.format(symbol) for symbol in sorted(wanted))
    source.write_text(f"{code}\nint {COUNT}(unsigned *count) {{ *count = 1; return 0; }}\n")
    for name in sorted(libraries):
        link = ["gcc", "-shared", "-fPIC", "-o", str(folder / name), str(source)]
        subprocess.run([*link, f"-Wl,-soname,{name}"], check=True)
    print(f"stubs.py: {len(libraries)} libraries with {len(wanted) + 1} symbols")
    return 0


def _package(name: str) -> Path:
    """Its folder, without importing it."""
    found = find_spec(name)
    assert found is not None, f"{name} is not installed"
    assert found.origin is not None
    return Path(found.origin).parent


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _system(name: str) -> Path:
    return Path(_run("gcc", f"-print-file-name={name}").strip())


def _symbols(file: Path, which: str) -> set[str]:
    lines = _run("nm", "-D", which, str(file)).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines if line.strip()}


def _needed(file: Path) -> set[str]:
    return set(re.findall(r"NEEDED.*\[(.*?)\]", _run("readelf", "-dW", str(file))))


if __name__ == "__main__":
    raise SystemExit(main())
