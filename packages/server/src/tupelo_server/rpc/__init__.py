"""The native service over gRPC, on a port of its own; needs the extra ``tupelo-server[grpc]``."""
