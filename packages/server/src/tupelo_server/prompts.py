"""Text into prompts: encoding, and conversations through the model's chat template."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo.text.templates import TemplateRenderer
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Prompt

_INLINE_CHARS = 2000
"""Up to here a text is encoded on the event loop: it takes less time than a change of threads."""


class Prompts:
    """Makes prompts with the tokenizer and the template of the model being served."""

    def __init__(
        self, tokenizer: Tokenizer, renderer: TemplateRenderer, chat_template: str | None = None
    ) -> None:
        """Use ``chat_template`` (its source) instead of the model's, if given."""
        self.tokenizer = tokenizer
        self._renderer = renderer
        self._chat_template = chat_template

    async def of_texts(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[Prompt]:
        """Encode texts, long ones in a thread.

        Raises:
            InvalidRequest: a text that is no valid Unicode.
        """
        if sum(map(len, texts)) <= _INLINE_CHARS:
            found = self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        else:
            found = await asyncio.to_thread(
                self.tokenizer.encode_batch, texts, add_special_tokens=add_special_tokens
            )
        return [Prompt(tuple(ids), text) for ids, text in zip(found, texts, strict=True)]

    async def of_any(self, prompts: Sequence[str] | Sequence[tuple[int, ...]]) -> list[Prompt]:
        """Encode texts; take ids as they are."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if texts:
            return await self.of_texts(texts)
        return [Prompt(prompt) for prompt in prompts if not isinstance(prompt, str)]

    async def of_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Render a conversation and encode it.

        Raises:
            TemplateError: no template, or it refuses the conversation.
            InvalidRequest: the template's variables are set by ``template_kwargs``.
        """
        template = self._chat_template or self.tokenizer.template_for()
        special: dict[str, Any] = dict(self.tokenizer.special_tokens)
        taken = sorted(set(template_kwargs or ()) & set(special))
        if taken:
            raise InvalidRequest(
                f"chat_template_kwargs may not set {taken[0]!r}", param="chat_template_kwargs"
            )
        render = functools.partial(
            self._renderer.render,
            template,
            messages=_known_roles(messages, template),
            add_generation_prompt=not continue_final_message,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
            **special,
        )
        text = await asyncio.to_thread(render)
        return (await self.of_texts([text], add_special_tokens=False))[0]

    def close(self) -> None:
        """End the template workers."""
        self._renderer.close()


def _known_roles(
    messages: Sequence[Mapping[str, Any]], template: str
) -> Sequence[Mapping[str, Any]]:
    """``developer`` is OpenAI's newer word for ``system``; most templates know only the latter."""
    if "developer" in template:
        return messages
    return [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]
