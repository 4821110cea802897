"""Text into prompts: encoding, and conversations through the model's chat template."""

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tupelo.errors import (
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidRequest,
    QueueFull,
    TemplateError,
)
from tupelo.request import MAX_PROMPTS, check_count
from tupelo.text.templates import TemplateRenderer
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Prompt
from tupelo_server.parsing import AUTO, Formats
from tupelo_server.tracing.hooks import spanned

_INLINE_CHARS = 2000
"""Up to here a text is encoded on the event loop: it takes less time than a change of threads."""

_RENDERING = 2
"""Conversations rendered at a time, in threads of their own: where a template is slow, texts and
everything else go on."""
_MAX_WAITING = 256
"""Conversations that wait for their turn; more are refused."""
_GONE = "the model was unloaded meanwhile; send the request again"


class Prompts:
    """Makes prompts with the tokenizer and the template of the model being served."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        renderer: TemplateRenderer,
        chat_template: str | None = None,
        *,
        context_length: int | None = None,
        tool_call_parser: str = AUTO,
        reasoning_parser: str = AUTO,
    ) -> None:
        """Use ``chat_template`` (its source) instead of the model's, if given.

        Args:
            context_length: in tokens; a prompt whose text could not fit is not even encoded.
            tool_call_parser, reasoning_parser: see ``Formats``.

        Raises:
            ConfigError: a parser is named that does not exist.
        """
        self.tokenizer = tokenizer
        self._renderer = renderer
        self._chat_template = chat_template
        self._context_length = context_length
        self._threads = ThreadPoolExecutor(_RENDERING, thread_name_prefix="chat-template")
        self._num_rendering = 0
        self._closed = False
        sources = [self.template(tools=True), self.template()] if self.has_template else []
        self.formats = Formats(tokenizer, sources, tool_call_parser, reasoning_parser)

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template at all."""
        return bool(self._chat_template or self.tokenizer.chat_templates)

    def template(self, *, tools: bool = False) -> str:
        """The source of the chat template for conversations with or without tools.

        Raises:
            TemplateError: there is none.
        """
        return self._chat_template or self.tokenizer.template_for(tools=tools)

    @spanned("tokenize")
    async def of_texts(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[Prompt]:
        """Encode texts, long ones in a thread.

        Raises:
            InvalidRequest: too many texts, or one that is no valid Unicode.
        """
        check_count("prompt", len(texts), MAX_PROMPTS)
        if sum(map(len, texts)) + len(texts) <= _INLINE_CHARS:
            found = self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        else:
            found = await asyncio.to_thread(
                self.tokenizer.encode_batch, texts, add_special_tokens=add_special_tokens
            )
        return [Prompt(tuple(ids), text) for ids, text in zip(found, texts, strict=True)]

    async def text_of(
        self, lists: Sequence[Sequence[int]], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of each list of ids; long ones in a thread.

        Raises:
            InvalidRequest: too many lists, or an id outside the vocabulary.
        """
        check_count("tokens", len(lists), MAX_PROMPTS)

        def decode() -> list[str]:
            return [
                self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens) for ids in lists
            ]

        if sum(map(len, lists)) <= _INLINE_CHARS:
            return decode()
        return await asyncio.to_thread(decode)

    @spanned("tokenize")
    async def framed(self, texts: Sequence[str], max_tokens: int) -> list[Prompt]:
        """Encode texts for a model that pools, between the special tokens that it wants.

        Args:
            max_tokens: texts are cut so that no prompt is longer; 0 means no cut.

        Raises:
            ContextLengthExceeded: a text that is too long, whatever its tokens are, and is not cut.
            InvalidRequest: too many texts, one that is no valid Unicode, or no room for any.
        """
        check_count("prompt", len(texts), MAX_PROMPTS)
        if not max_tokens:
            self._check_length(texts)

        def frame() -> list[Prompt]:
            frame = functools.partial(self.tokenizer.frame, max_tokens=max_tokens)
            return [Prompt(tuple(frame(text)[0]), text) for text in texts]

        if sum(map(len, texts)) + len(texts) <= _INLINE_CHARS:
            return frame()
        return await asyncio.to_thread(frame)

    async def of_any(self, prompts: Sequence[str] | Sequence[tuple[int, ...]]) -> list[Prompt]:
        """Encode texts; take ids as they are.

        Raises:
            ContextLengthExceeded: a text that is too long, whatever its tokens are.
            InvalidRequest: see ``of_texts``.
        """
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if texts:
            self._check_length(texts)
            return await self.of_texts(texts)
        return [Prompt(prompt) for prompt in prompts if not isinstance(prompt, str)]

    async def of_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Render a conversation, with descriptions of tools, and encode it.

        Args:
            template: source of the one to use; None means the server's, or the model's.

        Raises:
            TemplateError: no template, or it refuses the conversation.
            InvalidRequest: the template's variables are set by ``template_kwargs``, or it takes no
                tools.
            ContextLengthExceeded: the text is too long, whatever its tokens are.
            QueueFull: too many conversations wait to be rendered.
            EngineUnavailable: the model was unloaded meanwhile.
        """
        template = template or self.template(tools=bool(tools))
        if tools and "tools" not in template:
            raise InvalidRequest(
                "tools: this model's chat template takes none; start the server with a "
                "--chat-template that does",
                param="tools",
            )
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
            tools=tools or None,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
            **special,
        )
        text = await self._rendered(render)
        self._check_length([text])
        return (await self.of_texts([text], add_special_tokens=False))[0]

    def close(self) -> None:
        """End the template workers; what still waits for one fails."""
        self._closed = True
        self._renderer.close()
        self._threads.shutdown(wait=False)

    @spanned("render")
    async def _rendered(self, render: Callable[[], str]) -> str:
        if self._num_rendering >= _MAX_WAITING + _RENDERING:
            raise QueueFull(
                f"{_MAX_WAITING} conversations wait for the chat template already. Try again later"
            )
        if self._closed:
            raise EngineUnavailable(_GONE)
        self._num_rendering += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, render)
        except TemplateError:
            if self._closed:
                raise EngineUnavailable(_GONE) from None
            raise
        finally:
            self._num_rendering -= 1

    def _check_length(self, texts: Sequence[str]) -> None:
        """Refuse what could not fit into the context: encoding it would take long.

        The bound is twice what tokens and spaces between them could cover.
        """
        if self._context_length is None:
            return
        limit = 2 * self._context_length * (self.tokenizer.longest_token + 1)
        for text in texts:
            if len(text) > limit:
                raise ContextLengthExceeded(
                    f"this model's maximum context length is {self._context_length} tokens, but "
                    f"the prompt has {len(text)} characters; shorten it",
                    param="prompt",
                )


def _known_roles(
    messages: Sequence[Mapping[str, Any]], template: str
) -> Sequence[Mapping[str, Any]]:
    """``developer`` is OpenAI's newer word for ``system``; most templates know only the latter."""
    if "developer" in template:
        return messages
    return [{**m, "role": "system"} if m.get("role") == "developer" else m for m in messages]
