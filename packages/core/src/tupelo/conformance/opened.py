"""A child process of the kit: what importing a backend's module opens.

Prints, as JSON, the device nodes that are open after the import and weren't before, and whether
torch's accelerator is initialised by then.
"""

import json
import os
import stat
import sys
from pathlib import Path

import torch

from tupelo.conformance.target import find_factory

_HARMLESS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
_FOLDERS = ("/dev/pts/", "/dev/shm/")


def device_nodes() -> set[str]:
    """Paths of the character devices that this process has open; empty where there is no /proc."""
    folder = Path("/proc/self/fd")
    found = set()
    for link in folder.iterdir() if folder.is_dir() else ():
        try:
            path = os.readlink(link)
            is_device = stat.S_ISCHR(link.stat().st_mode)
        except OSError:  # closed meanwhile: the listing's own descriptor
            continue
        if is_device and path not in _HARMLESS and not path.startswith(_FOLDERS):
            found.add(path)
    return found


def accelerator_initialised() -> bool:
    """Whether torch has opened the accelerator that it was built for."""
    accelerator = torch.accelerator.current_accelerator(check_available=False)
    if accelerator is None:
        return False
    module = torch.get_device_module(accelerator)
    return bool(getattr(module, "is_initialized", lambda: False)())


def main() -> None:
    """Import the module of the backend named by the first argument, and print what that opened."""
    before = device_nodes()
    find_factory(sys.argv[1])
    opened = sorted(device_nodes() - before)
    print(json.dumps({"nodes": opened, "initialised": accelerator_initialised()}))


if __name__ == "__main__":
    main()
