"""litellm: completion, its streams and its async twin, structured output, its errors."""

import asyncio
from functools import partial

import litellm
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

PLACE = place()
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
SETTINGS = {
    "model": f"openai/{MODEL}",
    "api_base": PLACE.url,
    "api_key": PLACE.key,
    "temperature": 0,
    "num_retries": 0,
    "max_retries": 0,
}


def main() -> None:
    reply = litellm.completion(messages=MESSAGES, max_tokens=TOKENS, **SETTINGS)
    text = reply.choices[0].message.content
    assert reply.usage.completion_tokens <= TOKENS
    stream = litellm.completion(messages=MESSAGES, max_tokens=TOKENS, stream=True, **SETTINGS)
    same("".join(chunk.choices[0].delta.content or "" for chunk in stream), text)
    twin = asyncio.run(litellm.acompletion(messages=MESSAGES, max_tokens=TOKENS, **SETTINGS))
    assert twin.choices[0].message.content == text

    ann = [{"role": "user", "content": PERSON}]
    formed = litellm.completion(messages=ann, max_tokens=80, response_format=Person, **SETTINGS)
    content = formed.choices[0].message.content
    a_person(Person.model_validate_json(content))
    stream = litellm.completion(
        messages=ann, max_tokens=80, response_format=Person, stream=True, **SETTINGS
    )
    same("".join(chunk.choices[0].delta.content or "" for chunk in stream), content)

    plain = litellm.text_completion(
        prompt="One, two, three,",
        max_tokens=TOKENS,
        **{**SETTINGS, "model": f"text-completion-openai/{MODEL}"},
    )
    assert plain.choices[0].text

    for expected, change, prompt in (
        (litellm.BadRequestError, {"temperature": -1}, QUESTION),
        (litellm.ContextWindowExceededError, {}, TOO_LONG),
        (litellm.AuthenticationError, {"api_key": "wrong"}, QUESTION),
    ):
        messages = [{"role": "user", "content": prompt}]
        settings = {**SETTINGS, **change, "messages": messages, "max_tokens": TOKENS}
        assert refusal(expected, partial(litellm.completion, **settings)).status_code in (400, 401)


if __name__ == "__main__":
    main()
