"""Vector kernels in C++, built on the user's machine; see ``builder`` and ``library``."""
