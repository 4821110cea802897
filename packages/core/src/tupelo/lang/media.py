"""Images and videos that a program shows: read when the program says so, sent as data URLs."""

import base64
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from tupelo.errors import ProgramError

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True)
class Media:
    """An image or a video.

    Attributes:
        kind: "image" or "video".
        url: where it is, or a data URL that holds it.
        num_frames: of a video, how many to look at; -1 leaves it to the model.
    """

    kind: str
    url: str
    num_frames: int = -1

    @property
    def data(self) -> tuple[str, str]:
        """Media type and base64 text of a data URL; two empty texts of another URL."""
        head, comma, body = self.url.partition(",")
        if not comma or not head.startswith("data:"):
            return "", ""
        return head.removeprefix("data:").removesuffix(";base64"), body


def read_media(kind: str, source: str | Path | bytes, num_frames: int = -1) -> Media:
    """Media from a file, from bytes, or from a URL that the server fetches.

    Raises:
        ProgramError: no such file.
    """
    if isinstance(source, str) and source.startswith(("http://", "https://", "data:")):
        return Media(kind, source, num_frames)
    if isinstance(source, bytes):
        data, media_type = source, _type_of(kind, source)
    else:
        path = Path(source)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ProgramError(f"{kind}: {path.name!r} cannot be read: {error.strerror}") from None
        media_type = mimetypes.guess_type(path.name)[0] or _type_of(kind, data)
    text = base64.b64encode(data).decode("ascii")
    return Media(kind, f"data:{media_type};base64,{text}", num_frames)


def _type_of(kind: str, data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    return f"{kind}/{'mp4' if kind == 'video' else 'png'}"
