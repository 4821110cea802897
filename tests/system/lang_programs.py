"""Programs of each kind that the language is for, with what the demo model must make of them.

Each takes a backend, checks its own results, and returns them, so that backends can be compared.
"""

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import pydantic

import tupelo as tp

GREEDY: dict[str, Any] = {"temperature": 0}


def few_shot(backend: Any) -> Any:
    """Examples, then a question of the same form; ended by a line break."""

    @tp.function
    def capital(s: Any, country: str) -> None:
        s += "Country: Japan\nCapital: Tokyo\n\nCountry: Spain\nCapital: Madrid\n\n"
        s += "Country: " + country + "\nCapital:" + tp.gen("city", max_tokens=8, stop="\n")

    state = capital.run(country="France", backend=backend, **GREEDY)
    assert state["city"].strip() == "Paris"
    assert state.text().endswith("Country: France\nCapital: Paris")
    return state.text()


def multi_turn(backend: Any) -> Any:
    """A conversation, written in each form that role blocks have."""

    @tp.function
    def talk(s: Any, first: str, second: str) -> str:
        s += tp.system("You answer in one short sentence.")
        s += tp.user(first)
        s += tp.assistant(tp.gen("first", max_tokens=24))
        s += tp.user_begin() + second + tp.user_end()
        with s.assistant():
            s += tp.gen("second", max_tokens=24)
        return "done"

    state = talk.run("What is the capital of France?", "And of Italy?", backend=backend, **GREEDY)
    assert state.ret_value == "done"
    assert "Paris" in state["first"]
    assert "Rome" in state["second"]
    roles = [message["role"] for message in state.messages()]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert state.messages()[2]["content"] == state["first"]
    assert state.text().count("<|im_start|>assistant\n") == 2
    return state.text()


def select(backend: Any) -> Any:
    """A choice among given texts, by each method, in a text and in a conversation."""
    choices = ["Rome", "Paris", "New York City"]
    found = []
    for method in (
        None,
        tp.token_length_normalized,
        tp.greedy_token_selection,
        tp.unconditional_likelihood_normalized,
    ):

        @tp.function
        def capital(s: Any, method: Any = method) -> None:
            s += "The capital of France is " + tp.select("city", choices, choices_method=method)
            s += ". The capital of Italy is"
            s += tp.gen("other", choices=[" " + city for city in choices], choices_method=method)

        state = capital.run(backend=backend)
        if method is not tp.unconditional_likelihood_normalized:  # which likes names of many words
            assert (state["city"], state["other"]) == ("Paris", " Rome")
        assert len(state.get_meta_info("city")["scores"]) == 3
        found.append(state.text())

    @tp.function
    def judge(s: Any) -> None:
        s += tp.user("What is the capital of France?")
        s += tp.assistant("The capital is " + tp.select("city", ["Rome", "Paris"]) + ".")

    state = judge.run(backend=backend)
    assert state["city"] == "Paris"
    return [*found, state.messages()]


def decode_int(backend: Any) -> Any:
    """A number, which the program computes with."""

    @tp.function
    def days(s: Any) -> int:
        s += "Q: How many months are in a year?\nA: 12\n"
        s += "Q: How many days are in a week?\nA:" + tp.gen_int("week") + "\n"
        s += "Q: How many months are in a year?\nA:" + tp.gen("year", dtype="int") + "\n"
        return int(s["week"] * s["year"])

    state = days.run(backend=backend, **GREEDY)
    assert (state["week"], state["year"]) == (7, 12)
    assert state.ret_value == 84
    assert "A: 7\n" in state.text()
    return state.text()


def dtypes(backend: Any) -> Any:
    """Each type that an output may have."""

    @tp.function
    def facts(s: Any) -> None:
        s += 'name = "Ann"\nname =' + tp.gen_string("name") + "\n"
        s += "pi = 3.14159\npi =" + tp.gen("pi", dtype=float) + "\n"
        s += "wet = True\nwet =" + tp.gen("wet", dtype=bool) + "\n"

    state = facts.run(backend=backend, max_new_tokens=16, **GREEDY)
    assert re.fullmatch(r"[A-Z]\w+", state["name"])
    assert f'name = "{state["name"]}"\n' in state.text()
    assert state["pi"] == 3.14159
    assert isinstance(state["wet"], bool)
    return state.text()


def decode_json_by_regex(backend: Any) -> Any:
    """A record of a fixed form."""
    form = r'\{"city": "[A-Z][a-z]{2,12}", "country": "[A-Z][a-z]{2,12}", "year": [12][0-9]{3}\}'

    @tp.function
    def record(s: Any) -> None:
        s += "The Eiffel Tower as JSON:\n" + tp.gen("json", max_tokens=64, regex=form)

    state = record.run(backend=backend, **GREEDY)
    assert re.fullmatch(form, state["json"])
    assert set(json.loads(state["json"])) == {"city", "country", "year"}
    return state["json"]


@dataclasses.dataclass
class City:
    """What a program asks for as a dataclass."""

    name: str
    country: str
    large: bool


class Person(pydantic.BaseModel):
    """What a program asks for as a pydantic model."""

    name: str = pydantic.Field(max_length=20)
    age: int


def decode_json_by_schema(backend: Any) -> Any:
    """A schema leaves the text; a dataclass or a model makes a value of it."""
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }

    @tp.function
    def record(s: Any) -> None:
        s += 'Sky: {"colour": "blue"}\nBlood: {"colour": "red"}\nGrass: '
        s += tp.gen("grass", json_schema=schema) + "\n"
        s += "The city Paris in France, as JSON: " + tp.gen("city", json_schema=City) + "\n"
        s += "The person Ann, 31 years old, as JSON: " + tp.gen("person", json_schema=Person)

    state = record.run(backend=backend, **GREEDY)
    assert json.loads(state["grass"]) == {"colour": "green"}
    assert isinstance(state["city"], City)
    assert state["city"].name == "Paris"
    assert isinstance(state["person"], Person)
    assert state["person"].age == 31
    return state.text()


def parallel_decoding(backend: Any) -> Any:
    """Branches that go on from one text at the same time, and are gathered."""

    @tp.function
    def tips(s: Any, topics: list[str]) -> None:
        s += "Advice for a healthy life. There are some things that matter to all of us.\n"
        branches = s.fork(len(topics))
        for topic, branch in zip(topics, branches, strict=True):
            branch += f"For {topic} you should" + tp.gen("tip", max_tokens=12, stop="\n")
        branches.join()
        s += "In short:" + "".join(s["tip"]) + "\nSo" + tp.gen("end", max_tokens=8)

    state = tips.run(["sleep", "food", "sport"], backend=backend, **GREEDY)
    assert len(state["tip"]) == 3
    assert all(tip in state.text() for tip in state["tip"])
    assert len(set(state["tip"])) == 3
    return state.text()


def parallel_encoding(backend: Any) -> Any:
    """Branches whose texts are put together, and asked about."""

    @tp.function
    def about(s: Any, facts: list[str]) -> None:
        s += "Some facts.\n"
        branches = s.fork(len(facts))
        branches += [f"Fact: {fact}\n" for fact in facts]
        branches.join("concate_and_append")
        s += "Fact: cat =" + tp.gen("which", max_tokens=3)

    facts = ["dog = 17.", "cat = 23.", "cow = 31."]
    state = about.run(facts, backend=backend, **GREEDY)
    assert state.text().startswith("Some facts.\n" + "".join(f"Fact: {one}\n" for one in facts))
    assert state["which"].startswith(" 2")
    return state.text()


def streamed(backend: Any) -> Any:
    """Pieces of one variable, and of all text, as they come."""

    @tp.function
    def story(s: Any) -> None:
        s += "Once upon a time" + tp.gen("story", max_tokens=16) + "\nThe end."

    state = story.run(backend=backend, stream=True, **GREEDY)
    pieces = list(state.text_iter("story"))
    assert len(pieces) > 8
    assert "".join(pieces) == state["story"]
    everything = list(state.text_iter())
    assert everything[0] == "Once upon a time"
    assert "".join(everything) == state.text() == story.run(backend=backend, **GREEDY).text()
    assert state.get_meta_info("story")["completion_tokens"] == 16
    return state.text()


def streamed_asynchronously(backend: Any) -> Any:
    """The same in an event loop, with what the backend tells at the end."""

    @tp.function
    def question(s: Any) -> None:
        s += tp.user("Name a colour.")
        s += tp.assistant(tp.gen("colour", max_tokens=12))

    async def read() -> tuple[list[str], Any]:
        state = question.run(backend=backend, stream=True, **GREEDY)
        found = [pair async for pair in state.text_async_iter("colour", return_meta_data=True)]
        whole = "".join([piece async for piece in state.text_async_iter()])
        assert whole == "Name a colour." + state["colour"]
        return [piece for piece, _ in found], found[-1][1]

    pieces, meta = asyncio.run(read())
    assert len(pieces) > 2
    assert meta["finish_reason"]["type"] in ("stop", "length")
    return "".join(pieces)


def tool_in_text(backend: Any) -> Any:
    """The program itself looks for calls in the text, and puts results there."""

    @tp.function
    def sums(s: Any, task: str) -> None:
        s += "Task: 2 and 3 apples.\nSum: [2+3] = 5\nTask: 4 and 1 pears.\nSum: [4+1] = 5\n"
        s += "Task: " + task + "\nSum: [" + tp.gen("sum", max_tokens=8, stop="]") + "] = "
        numbers = [int(number) for number in re.findall(r"\d+", s["sum"])]
        s["result"] = sum(numbers)
        s += s["result"]

    state = sums.run("6 and 7 plums.", backend=backend, **GREEDY)
    assert state["sum"] == "6+7"
    assert state["result"] == 13
    assert state.text().endswith("[6+7] = 13")
    return state.text()


def completion_and_chat(backend: Any) -> Any:
    """What the model is told of one question in either form."""

    @tp.function
    def completed(s: Any) -> None:
        s += "The capital of Germany is" + tp.gen("answer", max_tokens=6)

    @tp.function
    def asked(s: Any) -> None:
        s += tp.user("What is the capital of Germany?")
        s += tp.assistant("The capital is" + tp.gen("answer", max_tokens=6))

    plain, chat = completed.run(backend=backend, **GREEDY), asked.run(backend=backend, **GREEDY)
    assert "Berlin" in plain["answer"]
    assert "Berlin" in chat["answer"]
    assert chat.messages()[1]["content"] == "The capital is" + chat["answer"]
    return [plain.text(), chat.text()]


def batch(backend: Any) -> Any:
    """Many sets of arguments at a time; results in their order, as a list and one by one."""
    context = "A list of ages, complete.\nAnn: 20\nBob: 30\nCleo: 40\n\nThe same again.\n"

    @tp.function
    def age(s: Any, context: str, name: str) -> None:
        s += context + f"{name}:" + tp.gen("age", dtype=int)

    ages = age.bind(context=context)
    names = [{"name": name} for name in ("Ann", "Bob", "Cleo", "Ann")]
    states = ages.run_batch(names, backend=backend, progress_bar=True, **GREEDY)
    assert [state["age"] for state in states] == [20, 30, 40, 20]
    one_by_one = ages.run_batch(
        [("Bob",), ("Cleo",)], backend=backend, generator_style=True, num_threads=1, **GREEDY
    )
    assert next(one_by_one)["age"] == 30
    assert next(one_by_one)["age"] == 40
    return [state.text() for state in states]


def variables(backend: Any) -> Any:
    """Scopes, copies, samples, endings, log-probabilities, and texts without a name."""

    @tp.function
    def all_of_them(s: Any) -> None:
        with s.var_scope("line"):
            s += "1, 2, 3, 4," + tp.gen(max_tokens=3)
        with s.copy() as other:
            other += " and so on," + tp.gen("aside", max_tokens=3)
        s += tp.gen("samples", n=3, max_tokens=4, temperature=1.0, seed=7)
        s += "\n6, 7, 8," + tp.gen("until", max_tokens=16, stop_regex=r"\d\d", ignore_eos=True)
        s += "\nA" + tp.gen("scored", max_tokens=3, return_logprob=True, top_logprobs_num=2)

    state = all_of_them.run(backend=backend, **GREEDY)
    assert state["line"] == "1, 2, 3, 4, 5,"
    assert len(state["aside"]) == 1
    assert state["aside"][0] not in state.text()
    assert len(state["samples"]) == 3
    assert len(set(state["samples"])) > 1
    assert state["samples"][0] in state.text()
    assert re.search(r"\d\d$", state["until"])
    meta = state.get_meta_info("scored")
    assert len(meta["output_token_logprobs"]) == 3
    assert len(meta["output_top_logprobs"][0]) == 2
    return state.text()


def reasoning(backend: Any) -> Any:
    """Thoughts are kept apart from the answer, streamed or not."""
    form = r"<think>\n[a-z ]{10,30}\.\n</think>\n\n[A-Z][a-z]{3,10}\."

    @tp.function
    def thoughtful(s: Any) -> None:
        s += tp.user("Name a colour.")
        said = tp.assistant(tp.gen("colour", regex=form))
        s += tp.separate_reasoning(said, model_type="qwen3")

    state = thoughtful.run(backend=backend, max_new_tokens=40, **GREEDY)
    assert re.fullmatch(r"[A-Z][a-z]{3,10}\.", state["colour"])
    assert re.fullmatch(r"[a-z ]{10,30}\.", state["colour_reasoning_content"].strip())
    assert state.messages()[-1]["content"] == state["colour"]
    stream = thoughtful.run(backend=backend, max_new_tokens=40, stream=True, **GREEDY)
    assert "".join(stream.text_iter("colour")) == state["colour"]
    thoughts = "".join(stream.text_iter("colour_reasoning_content"))
    assert thoughts == state["colour_reasoning_content"]
    return [state["colour"], thoughts]


PROGRAMS: tuple[Callable[[Any], Any], ...] = (
    few_shot,
    multi_turn,
    select,
    decode_int,
    dtypes,
    decode_json_by_regex,
    decode_json_by_schema,
    parallel_decoding,
    parallel_encoding,
    streamed,
    streamed_asynchronously,
    tool_in_text,
    completion_and_chat,
    batch,
    variables,
    reasoning,
)
