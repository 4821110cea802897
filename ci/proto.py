"""Compiles the gRPC service's .proto into what the server reads: ``python ci/proto.py``.

With ``--check`` it writes nothing and says whether they are up to date. Needs grpcio-tools.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

FOLDER = Path(__file__).resolve().parent.parent / "packages/server/src/tupelo_server/rpc"
SOURCE = "tupelo.proto"
COMPILED = FOLDER / "tupelo.binpb"


def compiled() -> bytes:
    """The descriptor set of the .proto, without comments and positions."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        include = files("grpc_tools") / "_proto"
        arguments = [f"-I{FOLDER}", f"-I{include}", f"--descriptor_set_out={out}", SOURCE]
        if protoc.main(["protoc", *arguments]):
            raise SystemExit("the .proto does not compile")
        return out.read_bytes()


def main() -> int:
    """Write or compare; 1 if they differ."""
    new = compiled()
    if "--check" not in sys.argv:
        COMPILED.write_bytes(new)
        return 0
    same = FileDescriptorSet.FromString(new) == FileDescriptorSet.FromString(COMPILED.read_bytes())
    if not same:
        print("tupelo.binpb is stale: run python ci/proto.py")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
