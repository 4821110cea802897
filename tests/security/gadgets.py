"""Bytes that run a program where they are unpickled, unmarshalled or evaluated."""

import base64
import io
import zipfile
from pathlib import Path


def pickled(marker: Path) -> bytes:
    """A pickle that makes the file ``marker``; written by hand, for nothing here pickles."""
    return f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()


def torch_file(marker: Path) -> bytes:
    """A file as ``torch.save`` writes it, with that pickle inside."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(marker))
        archive.writestr("archive/version", "3\n")
    return data.getvalue()


def as_text(marker: Path) -> str:
    """The same as clients send tensors and processors: in base64."""
    return base64.b64encode(pickled(marker)).decode()


def expression(marker: Path) -> str:
    """A Python expression that makes the file."""
    return f"__import__('os').system('touch {marker}')"
