"""langchain-openai: invoke, stream, batch, structured output, errors."""

from functools import partial

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
from langchain_openai import ChatOpenAI, OpenAI

PLACE = place()
MESSAGES = [("system", SYSTEM), ("human", QUESTION)]


def model(**options: object) -> ChatOpenAI:
    values = {"temperature": 0, "max_tokens": TOKENS, "max_retries": 0, **options}
    return ChatOpenAI(model=MODEL, base_url=PLACE.url, api_key=PLACE.key, **values)


def main() -> None:
    whole = model().invoke(MESSAGES)
    same("".join(str(chunk.content) for chunk in model().stream(MESSAGES)), str(whole.content))
    assert whole.usage_metadata["output_tokens"] <= TOKENS
    assert whole.response_metadata["finish_reason"] in ("stop", "length")
    assert [reply.content for reply in model().batch([MESSAGES] * 2)] == [whole.content] * 2
    scored = model().bind(logprobs=True).invoke(MESSAGES)
    assert scored.response_metadata["logprobs"]["content"]

    structured = model(max_tokens=80).with_structured_output(Person, method="json_schema")
    a_person(structured.invoke(PERSON))
    *_, last = structured.stream(PERSON)
    a_person(last)

    plain = OpenAI(
        model=MODEL, base_url=PLACE.url, api_key=PLACE.key, temperature=0, max_tokens=TOKENS
    )
    same("".join(plain.stream("One, two, three,")), plain.invoke("One, two, three,"))

    for options, prompt in (({"temperature": -1}, QUESTION), ({}, TOO_LONG)):
        limited = model(**options)
        refusal(openai.BadRequestError, partial(limited.invoke, prompt))


if __name__ == "__main__":
    main()
