"""Tool calls, found in what a model writes. See README.md; the door is ``output_parser``."""
