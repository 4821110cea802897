"""The messages of ``tupelo.proto``, from its compiled descriptors: no generated code is needed.

Clients generate their own from the .proto, or ask the server's reflection.
"""

from importlib.resources import files
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import Default
from google.protobuf.message_factory import GetMessageClass

PACKAGE = "tupelo.v1"
SERVICE = f"{PACKAGE}.Tupelo"

_pool = Default()  # where reflection looks, and where the standard services are
for _file in FileDescriptorSet.FromString(
    (files("tupelo_server.rpc") / "tupelo.binpb").read_bytes()
).file:
    _pool.AddSerializedFile(_file.SerializeToString())


def message(name: str) -> Any:
    """The class of a message of the package."""
    return GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def given(value: Any) -> dict[str, Any]:
    """The fields of a message that were set, by name: lists and maps as such, messages as they
    are."""
    found: dict[str, Any] = {}
    for field, content in value.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            found[field.name] = dict(content)
        else:
            found[field.name] = list(content) if field.is_repeated else content
    return found
