"""``/tokenize`` and ``/detokenize``, and the same under ``/v1``."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from tupelo.errors import InvalidRequest
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.fields import documents
from tupelo_server.protocol.text import DetokenizeBody, TokenizeBody
from tupelo_server.state import frontend_of, state_of
from tupelo_server.wire import JsonResponse, read_object

router = APIRouter()


@router.post("/tokenize", openapi_extra=documents(TokenizeBody))
@router.post("/v1/tokenize", openapi_extra=documents(TokenizeBody))
async def tokenize(request: Request) -> Response:
    """Ids of a text, of each of several texts, or of a rendered conversation."""
    state, frontend = state_of(request), frontend_of(request)
    body = TokenizeBody.parse(await read_object(request, state.config.request_timeout_s))
    frontend.check_name(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give exactly one of prompt and messages", param="prompt")
    if body.messages is not None:
        names = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt")
        values = {name: getattr(body, name) for name in (*names, "continue_final_message")}
        chat = ChatBody.parse(values)
        template, variables = chat.template(trusted=state.config.trust_request_chat_template)
        prompts = [
            await frontend.prompts.of_messages(
                chat.checked_messages(),
                tools=chat.tool_use.tools,
                add_generation_prompt=chat.opens_reply,
                continue_final_message=chat.continue_final_message,
                template=template,
                template_kwargs=variables,
            )
        ]
    else:
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt or []
        prompts = await frontend.prompts.of_texts(texts, add_special_tokens=body.add_special_tokens)
    ids = [list(prompt.ids) for prompt in prompts]
    several = isinstance(body.prompt, list)
    return JsonResponse(
        {
            "tokens": ids if several else ids[0],
            "count": [len(found) for found in ids] if several else len(ids[0]),
            "max_model_len": frontend.info.context_length,
        }
    )


@router.post("/detokenize", openapi_extra=documents(DetokenizeBody))
@router.post("/v1/detokenize", openapi_extra=documents(DetokenizeBody))
async def detokenize(request: Request) -> Response:
    """The text of ids, or of each of several lists of them."""
    state, frontend = state_of(request), frontend_of(request)
    body = DetokenizeBody.parse(await read_object(request, state.config.request_timeout_s))
    frontend.check_name(body.model)
    several = bool(body.tokens) and isinstance(body.tokens[0], list)
    lists = [
        [token for token in ids if isinstance(token, int)]
        for ids in (body.tokens if several else [body.tokens])
        if isinstance(ids, list)
    ]
    texts = await frontend.prompts.text_of(lists, skip_special_tokens=body.skip_special_tokens)
    return JsonResponse({"text": texts if several else texts[0]})
