"""Text in and out of the model: tokenizers, incremental detokenization, chat templates.

Owns every conversion between text and token ids, and the one place where a chat template runs.
Imports no torch, and nothing of Tupelo but ``errors`` and ``checkpoint``. Import the modules
directly: this package imports none of them, so that each user pays only for what it uses.
"""
