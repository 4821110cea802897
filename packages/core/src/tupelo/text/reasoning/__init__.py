"""What a model thinks before it answers, split from the answer. See ``tools/README.md``."""
