"""Portable kernels in Triton: the tier between a vendor's own and torch. Only backends import them.

Every function launches on the device that its tensors live on, reads no value on the host, and is
safe to capture in a graph. Needs the extra ``tupelo-core[triton]``. Must not import anything of
Tupelo above ``backend``.
"""
