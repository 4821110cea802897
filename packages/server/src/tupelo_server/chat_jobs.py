"""From the body of a conversation to its job, whichever API brought it."""

from tupelo_server.engine_client import Frontend
from tupelo_server.generation import Job, Prompt
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.fields import check_priority
from tupelo_server.protocol.openai import new_id
from tupelo_server.reasoning import thinking_variables
from tupelo_server.state import ServerState
from tupelo_server.tools import ToolUse

_END_TOKENS = 32
"""Of a prompt that is given as ids, so many tell whether it ends within thoughts."""


async def chat_job(body: ChatBody, state: ServerState, frontend: Frontend) -> Job:
    """The job of a checked body.

    Raises:
        InvalidRequest, TemplateError, ContextLengthExceeded: what the body asks for cannot be had.
    """
    info = frontend.info
    params = body.sampling(body.limit, frontend.sampling_defaults, info.vocab_size)
    own, use, formats = body.grammar, body.tool_use, frontend.prompts.formats
    num_top = body.num_top
    priority = check_priority(body.priority, state.engine_config.schedule_policy)
    (salt,) = body.salts(1)
    (rid,) = body.rids(new_id("chatcmpl"), 1)
    prompt = await chat_prompt(body, use, state, frontend)
    text = prompt.text
    if text is None:
        end = prompt.ids[-_END_TOKENS:]
        text = frontend.prompts.tokenizer.decode_unchecked(end, skip_special_tokens=False)
    form = formats.reply_form(use, own, text)
    parsing = formats.parsing(form, text, separate_reasoning=body.separate_reasoning)
    return Job(
        prompt=prompt,
        params=params,
        rid=rid,
        stream=body.stream,
        stream_interval=state.config.stream_interval,
        salt=salt,
        priority=priority,
        logprobs=body.logprobs,
        top_logprobs=num_top,
        grammar=form.grammar(),
        thinking=formats.budget(body.max_thinking_tokens, text),
        parsing=parsing if parsing.finds_anything else None,
    )


async def chat_prompt(
    body: ChatBody, use: ToolUse, state: ServerState, frontend: Frontend
) -> Prompt:
    """What the model reads: the given ids, or the conversation as its template renders it.

    Raises:
        InvalidRequest, TemplateError, ContextLengthExceeded: it cannot be rendered, or is too long.
        ModelNotFound: the body names a model that is served no more.
    """
    frontend.check_name(body.model)
    messages = body.checked_messages()
    template, variables = body.template(trusted=state.config.trust_request_chat_template)
    opens_reply = body.opens_reply
    if body.input_ids is not None:
        return Prompt(tuple(body.input_ids))
    return await frontend.prompts.of_messages(
        messages,
        add_generation_prompt=opens_reply,
        continue_final_message=body.continue_final_message,
        tools=use.tools,
        template=template,
        template_kwargs=thinking_variables(
            body.reasoning_effort,
            variables,
            template or frontend.prompts.template(tools=bool(use.tools)),
            thinks=frontend.prompts.formats.reasoning is not None,
        ),
    )
