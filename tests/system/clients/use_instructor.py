"""instructor: models out of replies, whole and growing, with and without its retries; errors."""

import instructor
import openai
from common import MODEL, PERSON, TOO_LONG, Person, a_person, place, refusal
from pydantic import BaseModel, ConfigDict, Field

PLACE = place()
MESSAGES = [{"role": "user", "content": PERSON}]
SETTINGS = {"model": MODEL, "temperature": 0, "max_tokens": 80, "max_retries": 1}


class Family(BaseModel):
    """A form in a form, in a list."""

    model_config = ConfigDict(extra="forbid")
    members: list[Person] = Field(min_length=1, max_length=2)


def main() -> None:
    plain = openai.OpenAI(base_url=PLACE.url, api_key=PLACE.key, max_retries=0)
    client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
    person = client.chat.completions.create(response_model=Person, messages=MESSAGES, **SETTINGS)
    a_person(person)
    found, raw = client.chat.completions.create_with_completion(
        response_model=Person, messages=MESSAGES, **SETTINGS
    )
    assert found.model_dump() == person.model_dump()
    assert raw.usage.completion_tokens > 0
    *_, last = client.chat.completions.create_partial(
        response_model=Person, messages=MESSAGES, **SETTINGS
    )
    assert (last.name, last.age) == (person.name, person.age)

    family = client.chat.completions.create(
        response_model=Family, messages=MESSAGES, **{**SETTINGS, "max_tokens": 200}
    )
    for member in family.members:
        a_person(member)

    error = refusal(  # its own kind, or the client's
        Exception,
        lambda: client.chat.completions.create(
            response_model=Person, messages=[{"role": "user", "content": TOO_LONG}], **SETTINGS
        ),
    )
    assert "context" in str(error)


if __name__ == "__main__":
    main()
