"""``options`` and ``keep_alive`` of Ollama's bodies: what they are to this server.

What says how tokens are chosen, or how many, has its effect. What says how Ollama is to use the
machine it runs on is the operator's to say here, and is refused by name unless it asks for nothing.
"""

import re
from typing import Any, ClassVar

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_INT32, check_int
from tupelo_server.protocol.fields import Body, Tolerated

_MACHINE: Tolerated = {
    **dict.fromkeys(("numa", "num_batch", "main_gpu", "low_vram", "f16_kv", "num_thread"), ()),
    **dict.fromkeys(("logits_all", "use_mmap", "use_mlock", "vocab_only", "embedding_only"), ()),
    "num_gpu": (-1,),
}
_NEVER_DONE: Tolerated = {
    "num_keep": (),  # no tokens are dropped from a full context
    "mirostat": (),
    "mirostat_tau": (5.0,),
    "mirostat_eta": (0.1,),
    "tfs_z": (1,),
    "typical_p": (1,),
    "penalize_newline": (True,),
}
"""With the values that mean just that, Ollama's defaults."""

_SAME = ("temperature", "top_k", "top_p", "min_p", "stop")
_PENALTIES = {
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
_NUMBER = r"[0-9]{1,18}(\.[0-9]{0,9})?"
_DURATION = re.compile(rf"[+-]?({_NUMBER}|({_NUMBER}(ns|us|µs|ms|s|m|h)){{1,8}})")


class OllamaOptions(Body):
    """The options that have an effect.

    ``num_predict`` below 1 means as many tokens as fit. ``num_ctx``: prompt and output together
    have so many tokens at most. ``repeat_last_n``: -1, all tokens count for penalties, or 0, none
    does. ``seed`` -1 means any.
    """

    unsupported: ClassVar[Tolerated] = {**_MACHINE, **_NEVER_DONE}

    num_predict: int | None = None
    num_ctx: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_last_n: int | None = None

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "OllamaOptions":
        """Check an untrusted object; see ``Body.parse``."""
        if values.get("penalize_newline") is False:
            raise InvalidRequest(
                "penalize_newline: a line's end counts as every token does; false is not supported",
                param="penalize_newline",
            )
        return super().parse(values)

    def sampling(self) -> dict[str, Any]:
        """The fields of a chat body that ask for the same.

        Raises:
            InvalidRequest: a value that has no meaning here.
        """
        values = {name: getattr(self, name) for name in _SAME}
        if self.top_k == 0:
            values["top_k"] = -1
        if self.seed is not None and self.seed != -1:
            values["seed"] = self.seed
        if self.num_predict is not None:
            check_int("num_predict", self.num_predict, -2, MAX_INT32)
            values["max_tokens"] = self.num_predict if self.num_predict > 0 else None
        if self.repeat_last_n not in (None, -1, 0):
            raise InvalidRequest(
                f"repeat_last_n: got {self.repeat_last_n}; must be -1, for penalties count all "
                "tokens, or 0 for none",
                param="repeat_last_n",
            )
        if self.repeat_last_n == 0:
            values |= {"repetition_penalty": 1.0}
        else:
            values |= {name: getattr(self, own) for own, name in _PENALTIES.items()}
        return {name: value for name, value in values.items() if value is not None}

    def context(self, longest: int) -> int:
        """Tokens of prompt and output together.

        Args:
            longest: what this server has room for.

        Raises:
            InvalidRequest: more are asked for.
        """
        if self.num_ctx is None:
            return longest
        if not 0 < self.num_ctx <= longest:
            raise InvalidRequest(
                f"num_ctx: got {self.num_ctx}; this server has a context of {longest} tokens "
                "(its option --context-length)",
                param="num_ctx",
            )
        return self.num_ctx

    def refuse_sampling(self) -> None:
        """Refuse what says how to generate, where nothing is generated.

        Raises:
            InvalidRequest: names the option.
        """
        given = self.model_fields_set - {"num_ctx"}
        if given:
            name = min(given)
            raise InvalidRequest(f"{name}: has no meaning for embeddings", param=name)


def check_keep_alive(value: str | float | None) -> None:
    """Take every time that the model is there for, which is until an administrator unloads it.

    Raises:
        InvalidRequest: no time, or 0, which asks for the model to be unloaded.
    """
    if value is None:
        return
    if isinstance(value, str) and not _DURATION.fullmatch(value):
        raise InvalidRequest(
            'keep_alive: must be seconds, or a duration such as "5m"', param="keep_alive"
        )
    if not set("123456789") & set(str(value)):
        raise InvalidRequest(
            "keep_alive: 0 asks to unload the model, which is for an administrator to do",
            param="keep_alive",
            code="unsupported_parameter",
        )
