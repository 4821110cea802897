"""llama-index-llms-openai-like: chat, completion, streams, structured prediction, errors."""

import openai
from common import (
    MODEL,
    PERSON,
    QUESTION,
    SYSTEM,
    TOKENS,
    TOO_LONG,
    Person,
    a_person,
    place,
    refusal,
    same,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike

PLACE = place()
MESSAGES = [ChatMessage(role="system", content=SYSTEM), ChatMessage(role="user", content=QUESTION)]


def model(**options: object) -> OpenAILike:
    values = {
        "is_chat_model": True,
        "should_use_structured_outputs": True,
        "context_window": 8192,
        "temperature": 0,
        "max_tokens": TOKENS,
        "max_retries": 0,
        **options,
    }
    return OpenAILike(model=MODEL, api_base=PLACE.url, api_key=PLACE.key, **values)


def main() -> None:
    whole = model().chat(MESSAGES).message.content
    same("".join(part.delta or "" for part in model().stream_chat(MESSAGES)), whole)

    plain = model(is_chat_model=False)
    text = plain.complete("One, two, three,").text
    same("".join(part.delta or "" for part in plain.stream_complete("One, two, three,")), text)

    ask = PromptTemplate(PERSON)
    a_person(model(max_tokens=80).structured_predict(Person, ask))
    *_, last = model(max_tokens=80).stream_structured_predict(Person, ask)
    a_person(Person.model_validate(last.model_dump()))

    for options, prompt in (({"temperature": -1}, QUESTION), ({}, TOO_LONG)):
        message = ChatMessage(role="user", content=prompt)
        # A temperature that is none it may refuse itself.
        kinds = (openai.BadRequestError, ValueError) if options else (openai.BadRequestError,)
        refusal(kinds, lambda o=options, m=message: model(**o).chat([m]))


if __name__ == "__main__":
    main()
