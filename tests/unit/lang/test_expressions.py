"""What can be said, and what is refused as it is said."""

import base64
import dataclasses
import enum
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict

import pydantic
import pytest
from tests.unit.lang.rule import CountingBackend

import tupelo as tp
from tupelo.errors import ConfigError, ProgramError
from tupelo.lang.choices import ChoiceScores
from tupelo.lang.forms import form_of
from tupelo.lang.schema import build, parameters_of, schema_of
from tupelo.lang.seams import seam
from tupelo.lang.tools import describe


class Colour(enum.Enum):
    """A closed set of values."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Part:
    """What a whole is made of."""

    name: str
    weight: float = 1.0


@dataclasses.dataclass
class Whole:
    """Types within types."""

    parts: list[Part]
    colour: Colour
    kind: Literal["big", "small"]
    note: str | None = None
    sizes: tuple[int, ...] = ()


class Owner(TypedDict):
    """A mapping with known keys."""

    name: str


class Model(pydantic.BaseModel):
    """A model of another library."""

    number: int


def test_types_become_schemas() -> None:
    schema = schema_of(Whole)
    assert schema["required"] == ["parts", "colour", "kind"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert properties["parts"]["items"]["properties"]["weight"] == {"type": "number"}
    assert properties["colour"] == {"enum": ["red", "blue"]}
    assert properties["kind"] == {"enum": ["big", "small"]}
    assert properties["note"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert properties["sizes"] == {"type": "array", "items": {"type": "integer"}}
    assert schema_of(Owner)["required"] == ["name"]
    assert schema_of(dict[str, int]) == {
        "type": "object",
        "additionalProperties": {"type": "integer"},
    }
    assert schema_of(Model)["properties"]["number"]["type"] == "integer"
    with pytest.raises(ProgramError, match="has no JSON Schema"):
        schema_of(complex)


def test_values_are_built_from_json() -> None:
    value = {
        "parts": [{"name": "a"}, {"name": "b", "weight": 2}],
        "colour": "blue",
        "kind": "big",
        "note": None,
        "sizes": [1, 2],
    }
    expected = Whole([Part("a"), Part("b", 2.0)], Colour.BLUE, "big", None, (1, 2))
    assert build(Whole, value) == expected
    assert build(Model, {"number": 3}) == Model(number=3)
    assert build(dict[str, Part], {"x": {"name": "a"}}) == {"x": Part("a")}
    with pytest.raises(ProgramError, match="Part wants an object"):
        build(Part, [1])


def test_a_function_is_described_as_a_tool() -> None:
    def find(name: str, part: Part, limit: int = 3) -> list[str]:
        """Find something."""
        return [name, part.name, str(limit)]

    described = describe(find)["function"]
    assert described["name"] == "find"
    assert described["description"] == "Find something."
    assert described["parameters"]["required"] == ["name", "part"]
    assert described["parameters"]["properties"]["limit"] == {"type": "integer"}

    def rest(*names: str) -> None:
        """Takes names."""

    with pytest.raises(ProgramError, match="'names' cannot be given by name"):
        parameters_of(rest)
    with pytest.raises(ProgramError, match="named function"):
        tp.gen("x", tools=[lambda a: a])
    with pytest.raises(ProgramError, match="named alike"):
        tp.gen("x", tools=[find, find])
    with pytest.raises(ProgramError, match="tool's name"):
        tp.gen("x", tools=[find], tool_choice="lose")


@pytest.mark.parametrize(
    ("dtype", "text", "value", "shown"),
    [
        (int, " 42,", 42, " 42"),
        ("int", "-7\n", -7, "-7"),
        (float, "3.5 ", 3.5, "3.5"),
        (float, "3", 3.0, "3"),
        (bool, " True", True, " True"),
        (str, ' "a word"', "a word", ' "a word"'),
    ],
)
def test_outputs_become_values(dtype: Any, text: str, value: Any, shown: str) -> None:
    form = form_of(dtype=dtype)
    assert re.fullmatch(form.sampling["regex"], text)
    assert form.parse is not None
    assert form.parse(text) == value
    assert type(form.parse(text)) is type(value)
    assert form.visible is not None
    assert form.visible(text) == shown


def test_an_output_that_was_cut_is_told() -> None:
    parse = form_of(dtype=int).parse
    assert parse is not None
    with pytest.raises(ProgramError, match="'-' is no int; max_tokens may have cut it"):
        parse("-")
    parse = form_of(json_schema=Part).parse
    assert parse is not None
    with pytest.raises(ProgramError, match="max_tokens"):
        parse('{"name": "a')
    assert form_of(json_schema={"type": "null"}).parse is None
    assert json.loads(form_of(json_schema='{"type": "null"}').sampling["json_schema"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tp.gen("x", regex="a(b"), "unterminated"),
        (lambda: tp.gen("x", regex="a", dtype=int), "one of dtype and regex"),
        (lambda: tp.gen("x", json_schema="{"), "no JSON"),
        (lambda: tp.gen("x", dtype=list), "must be int, float, bool or str"),
        (lambda: tp.gen("x", temprature=1), "no 'temprature'"),
        (lambda: tp.gen("x", choices=["a"], top_p=0.5), "leaves nothing to top_p"),
        (lambda: tp.gen("x", choices_method=tp.greedy_token_selection), "needs choices"),
        (lambda: tp.select("x", []), "needs choices"),
        (lambda: tp.select("x", ["a", ""]), "not empty"),
        (lambda: tp.select("x", ["a"], temperature=1.0), "nothing is drawn"),
        (lambda: tp.gen("x", tool_choice="required"), "needs tools"),
        (lambda: tp.gen("x") + object(), "not a object"),
        (lambda: tp.image("/nowhere/at/all.png"), "'all.png' cannot be read"),
    ],
)
def test_wrong_expressions_are_refused_where_they_stand(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ProgramError, match=message):
        make()


def test_unknown_formats_of_thoughts_are_refused() -> None:
    with pytest.raises(ConfigError, match="'nobody'"):
        tp.separate_reasoning(tp.gen("x"), model_type="nobody")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("text" + tp.user("x"), "comes after text without a role"),
        (tp.user("x") + "text", "'text' stands between messages"),
        (tp.user("x") + tp.gen("y"), r"gen\(…\) stands between messages"),
        (tp.user("x" + tp.gen("y")), "is for the assistant's messages"),
        (tp.user(tp.system("x")), "begins inside one of user"),
        (tp.user_begin() + tp.assistant_end(), "closes no message"),
        (tp.image(b"GIF8") + "x", "belongs into a message"),
    ],
)
def test_what_stands_in_the_wrong_place_is_refused(expression: Any, message: str) -> None:
    class Seeing(CountingBackend):
        def check(self, step: object, place: object) -> None:
            """Everything is fine."""

    backend = Seeing()

    @tp.function
    def wrong(s: Any) -> None:
        s += expression

    with pytest.raises(ProgramError, match=message):
        wrong.run(backend=backend)
    assert not backend.prompts


def test_white_space_between_messages_is_nothing() -> None:
    backend = CountingBackend()

    @tp.function
    def spaced(s: Any) -> None:
        s += tp.system("a")
        s += "\n"
        s += tp.user("b") + "\n" + tp.assistant(tp.gen("c"))

    messages = spaced.run(backend=backend).messages()
    assert [message["content"][:1] for message in messages] == ["a", "b", "<"]


def test_media_are_parts_of_messages(tmp_path: Path) -> None:
    class Seeing(CountingBackend):
        def check(self, step: object, place: object) -> None:
            """Everything is fine."""

    backend = Seeing()
    picture = tmp_path / "one.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")

    @tp.function
    def look(s: Any) -> None:
        s += tp.user("First " + tp.image(picture) + " then " + tp.video(b"video", num_frames=4))
        s += tp.assistant(tp.gen("seen"))

    content = look.run(backend=backend).messages()[0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "video_url"]
    url = content[1]["image_url"]["url"]
    assert url == "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
    assert content[3]["video_url"]["url"].startswith("data:video/mp4;base64,")


def _scores(*rows: tuple[tuple[int, ...], tuple[float, ...]]) -> list[ChoiceScores]:
    return [ChoiceScores(ids, values, tuple(-1.0 for _ in ids)) for ids, values in rows]


def test_methods_of_choice() -> None:
    """Numbers by hand: a long choice that begins badly, a short one, one that begins best."""
    choices = ["long", "short", "begins well"]
    scored = _scores(((1, 2, 3), (-3.0, -0.1, -0.2)), ((4,), (-2.0,)), ((5, 6), (-0.5, -9.0)))
    mean = tp.token_length_normalized(choices, scored)
    assert mean.choice == "long"
    assert mean.scores == pytest.approx((-1.1, -2.0, -4.75))
    assert tp.greedy_token_selection(choices, scored).choice == "begins well"
    gain = tp.unconditional_likelihood_normalized(choices, scored)
    assert gain.scores == pytest.approx((-0.1, -1.0, -3.75))
    assert gain.choice == "long"


def test_greedy_choice_among_those_that_share_a_beginning() -> None:
    scored = _scores(((1,), (-1.0,)), ((1, 2), (-1.0, -0.5)), ((1, 3), (-1.0, -2.0)))
    assert tp.greedy_token_selection(["a", "ab", "ac"], scored).choice == "ab"
    scored = _scores(((1,), (-1.0,)), ((1, 2), (-1.0, -1.5)), ((1, 3), (-1.0, -2.0)))
    assert tp.greedy_token_selection(["a", "ab", "ac"], scored).choice == "a"
    assert tp.greedy_token_selection(["a", "a"], _scores(*[((1,), (-1.0,))] * 2)).choice == "a"


def test_scoring_begins_where_texts_part() -> None:
    assert seam([1, 2, 3], [[1, 2, 3, 4], [1, 2, 3, 5]]) == 3
    assert seam([1, 2, 3], [[1, 2, 9], [1, 2, 3, 5]]) == 2  # one choice joins the last token
    assert seam([1, 2, 3], [[1, 2, 3], [1, 2, 3, 5]]) == 2  # each keeps a token to be scored
    assert seam([], [[4], [5, 6]]) == 0
