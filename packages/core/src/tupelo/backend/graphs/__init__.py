"""A runner for devices that capture work once and replay it, whoever makes them.

A backend brings a ``Capture`` (``capture``), in most cases ``TorchCapture`` over its module of
torch; the rest is arithmetic on host arrays and calls of the contract's parts.
"""
