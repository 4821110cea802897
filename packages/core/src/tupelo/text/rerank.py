"""A query and a document as one prompt, for decoders that answer whether they fit together.

What clients send is ordinary text here: only the template's own special tokens are read as such.
Source: the model card of Qwen3-Reranker.
"""

from dataclasses import dataclass
from typing import Final

from tupelo.errors import InvalidRequest
from tupelo.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class RankTemplate:
    """Text around a query and a document.

    Attributes:
        before, after: with special tokens. body: without; has ``{instruct}``, ``{query}`` and
            ``{document}``. instruct: where a request brings none.
    """

    before: str
    body: str
    after: str
    instruct: str


TEMPLATES: Final = {
    "qwen3": RankTemplate(
        before=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the "
            'Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
            "<|im_end|>\n<|im_start|>user\n"
        ),
        body="<Instruct>: {instruct}\n<Query>: {query}\n<Document>: {document}",
        after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        instruct="Given a web search query, retrieve relevant passages that answer the query",
    )
}


def rank_prompt(
    tokenizer: Tokenizer,
    template: str,
    query: str,
    document: str,
    *,
    instruct: str = "",
    max_tokens: int = 0,
) -> list[int]:
    """The prompt's ids.

    Args:
        template: a name of ``TEMPLATES``.
        instruct: what documents are wanted; "" for the template's own.
        max_tokens: the end of the document is cut off beyond it; 0 means no limit.

    Raises:
        InvalidRequest: no valid Unicode, or a limit that leaves no room for a document.
    """
    form = TEMPLATES[template]
    before = tokenizer.encode(form.before, add_special_tokens=False)
    after = tokenizer.encode(form.after, add_special_tokens=False)
    said = {"instruct": instruct or form.instruct, "query": query, "document": document}
    body = tokenizer.encode(form.body.format(**said), add_special_tokens=False, parse_special=False)
    room = max_tokens - len(before) - len(after)
    if max_tokens and room < 1:
        raise InvalidRequest(
            f"{max_tokens} tokens leave no room for a document", param="truncate_prompt_tokens"
        )
    return before + (body[:room] if max_tokens else body) + after
