"""Outputs of the engine into a reply of the native API: text, ids and what is known of them."""

from typing import Any

from tupelo.engine.messages import Finish, Output, Scores
from tupelo.errors import InvalidRequest, RequestAborted, RequestError, RequestFailed
from tupelo.request import FinishReason, Request
from tupelo.text.output import TextStream
from tupelo.text.tokenizer import Tokenizer


class ReplyBuilder:
    """The growing reply of one request.

    Args:
        tokenizer: of the model; None leaves ``text`` empty.
        request: as submitted.

    Attributes:
        cut: a stop string ended the text; the engine does not know, and is to be told.
    """

    def __init__(self, tokenizer: Tokenizer | None, request: Request) -> None:
        self._request = request
        params = request.params
        self._stream = tokenizer and TextStream(
            tokenizer,
            stop=params.stop,
            stop_regex=params.stop_regex,
            no_stop_trim=params.no_stop_trim,
            prompt_ids=request.input_ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
            min_new_tokens=params.min_new_tokens,
        )
        self._tokenizer = tokenizer
        self._text: list[str] = []
        self._ids: list[int] = []
        self._scores = Scores([], [], [])
        self._prompt_scores: Scores | None = None
        self._finish: dict[str, Any] | None = None
        self._cached_tokens = 0
        self.cut = False

    def take(self, output: Output) -> bool:
        """Add an output; True once the reply is complete.

        Raises:
            RequestError: the request failed or was aborted.
        """
        finish = output.finish
        if finish is not None and finish.reason in (FinishReason.ERROR, FinishReason.ABORT):
            raise request_error(finish)
        self._cached_tokens = output.cached_tokens
        self._prompt_scores = output.prompt_scores or self._prompt_scores
        ids = output.token_ids
        # A stop token that ended the request is counted, but is no text.
        shown = ids[:-1] if finish is not None and finish.matched is not None else ids
        count = len(ids)
        if self._stream:
            delta = self._stream.push(shown)
            self._text.append(delta.text)
            if delta.matched_stop is None and finish is not None:
                self._text.append(self._stream.finish())
            if self._stream.matched_stop is not None:
                count = delta.num_tokens
                self.cut = finish is None
                self._finish = {"type": "stop", "matched": self._stream.matched_stop}
        self._ids += ids[:count]
        if output.scores is not None:
            self._scores.logprobs.extend(output.scores.logprobs[:count])
            self._scores.top.extend(output.scores.top[:count])
            self._scores.wanted.extend(output.scores.wanted[:count])
        if self._finish is None and finish is not None:
            self._finish = _finish_reason(finish, len(self._ids))
        return self._finish is not None

    def reply(self) -> dict[str, Any]:
        """The reply so far, cumulative."""
        request = self._request
        meta: dict[str, Any] = {
            "id": request.rid,
            "finish_reason": self._finish,
            "prompt_tokens": len(request.input_ids),
            "completion_tokens": len(self._ids),
            "cached_tokens": self._cached_tokens,
        }
        if request.logprobs:
            meta |= self._sides("output", self._scores, self._ids)
        start = request.prompt_logprobs_from
        if start is not None and self._prompt_scores is not None:
            meta |= self._sides("input", self._prompt_scores, list(request.input_ids[start:]))
        return {"text": "".join(self._text), "output_ids": list(self._ids), "meta_info": meta}

    def _sides(self, side: str, scores: Scores, ids: list[int]) -> dict[str, Any]:
        """Everything about the log-probabilities of prompt (``input``) or output."""
        named = self._request.token_ids_logprob
        found: dict[str, Any] = {f"{side}_token_logprobs": self._rows(scores, ids)}
        if self._request.top_logprobs:
            found[f"{side}_top_logprobs"] = scores.top
        if named:
            found[f"{side}_token_ids_logprobs"] = [
                [(value, token, None) for value, token in zip(values, named, strict=False)]
                for values in scores.wanted
            ]
        return found

    def _rows(self, scores: Scores, ids: list[int]) -> list[tuple[float | None, int, None]]:
        """SGLang's rows: log-probability, id, text (which is not made here)."""
        return [(value, token, None) for value, token in zip(scores.logprobs, ids, strict=True)]


def _finish_reason(finish: Finish, num_tokens: int) -> dict[str, Any]:
    if finish.reason is FinishReason.STOP:
        return {"type": "stop", "matched": finish.matched}
    return {"type": "length", "length": num_tokens}


def request_error(finish: Finish) -> RequestError:
    """The error of a request that failed or was aborted."""
    if finish.reason is FinishReason.ABORT:
        return RequestAborted(finish.message)
    kind = InvalidRequest if finish.status == InvalidRequest.status else RequestFailed
    error = kind(finish.message, param=finish.param or None, code=finish.code or None)
    error.status = finish.status
    return error
