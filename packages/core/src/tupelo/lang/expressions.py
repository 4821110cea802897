"""The words of the language: functions that make expressions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from tupelo.errors import ProgramError
from tupelo.lang import ir
from tupelo.lang.choices import ChoicesMethod, token_length_normalized
from tupelo.lang.forms import form_of
from tupelo.lang.ir import Expr, Gen, InRole, RoleBegin, RoleEnd, Seen, Select, as_expr
from tupelo.lang.media import read_media
from tupelo.lang.options import SamplingWords, given, sampling_of
from tupelo.lang.thoughts import ThoughtSplitter
from tupelo.lang.tools import describe


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    dtype: type | str | None = None,
    choices: Sequence[str] | None = None,
    choices_method: ChoicesMethod | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    ebnf: str | None = None,
    tools: Sequence[Callable[..., Any]] | None = None,
    max_tool_rounds: int = 8,
    tool_choice: str = "auto",
    **sampling: Unpack[SamplingWords],
) -> Expr:
    """Have the model go on; what it says becomes the variable ``name``, and joins the text.

    Args:
        dtype: int, float, bool or str: the variable is of that type. A str is written in quotes.
        choices, choices_method: see ``select``.
        regex, ebnf: what the output must look like.
        json_schema: a schema as text or mapping, whose variable is text; or a dataclass, a typed
            dict, or a pydantic model, whose variable is of that type.
        tools: named Python functions with typed arguments, which the model may call. Their results
            go to the model, until it answers.
        max_tool_rounds: so many times; a model that still calls then has failed.
        tool_choice: "auto", "required", or a function's name, in the first round.
        sampling: see ``SamplingWords``.

    Raises:
        ProgramError: a pattern, schema, type or tool that is wrong, or what excludes each other.
    """
    if choices is not None:
        forms = given({"dtype": dtype, "regex": regex, "json_schema": json_schema, "ebnf": ebnf})
        beside = [*forms, *given({**sampling, "tools": tools})]
        if beside and not (beside == ["temperature"] and sampling.get("temperature") == 0):
            raise ProgramError(f"gen(choices=…) leaves nothing to {beside[0]}: leave that out")
        return select(name, choices, choices_method=choices_method)
    if choices_method is not None:
        raise ProgramError("gen(choices_method=…) needs choices")
    form = form_of(dtype, regex, json_schema)
    values = sampling_of(max_tokens, sampling)
    if form.sampling and ebnf is not None:
        raise ProgramError(f"gen() takes one of {' and '.join((*form.sampling, 'ebnf'))}")
    if ebnf is not None:
        values["ebnf"] = ebnf
    return Gen(
        name=name,
        sampling={**values, **form.sampling},
        parse=form.parse,
        visible=form.visible,
        tools=_checked_tools(tools, values.get("n", 1), tool_choice, max_tool_rounds),
        max_tool_rounds=max_tool_rounds,
        tool_choice=tool_choice,
    )


def gen_int(name: str | None = None, **options: Any) -> Expr:
    """``gen`` of an integer."""
    return gen(name, dtype=int, **options)


def gen_string(name: str | None = None, **options: Any) -> Expr:
    """``gen`` of a text in quotes; the variable is what stands between them."""
    return gen(name, dtype=str, **options)


def select(
    name: str | None = None,
    choices: Sequence[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesMethod | None = None,
) -> Expr:
    """Append the choice that the model finds best, and set the variable ``name`` to it.

    Args:
        temperature: 0; nothing is drawn.
        choices_method: how they are compared; the mean log-probability of a token by default.

    Raises:
        ProgramError: no choices, one that is no text or empty, a temperature, or no method.
    """
    method = token_length_normalized if choices_method is None else choices_method
    if not choices or not all(isinstance(one, str) and one for one in choices):
        raise ProgramError("select() needs choices: texts that are not empty")
    if temperature != 0.0:
        raise ProgramError("select(temperature=…): the best choice is taken; nothing is drawn")
    if not callable(method):
        raise ProgramError(f"select(choices_method={method!r:.80}) is no method of choice")
    return Select(name, tuple(choices), method)


def image(source: str | Path | bytes) -> Expr:
    """An image: a file, its bytes, or a URL."""
    return Seen(read_media("image", source))


def video(source: str | Path | bytes, num_frames: int = -1) -> Expr:
    """A video: a file, its bytes, or a URL; ``num_frames`` to look at, -1 as the model likes."""
    return Seen(read_media("video", source, num_frames))


def system(content: object = None) -> Expr:
    """A system message; without content only its beginning, as ``system_begin``."""
    return _in_role("system", content)


def user(content: object = None) -> Expr:
    """A user's message; without content only its beginning, as ``user_begin``."""
    return _in_role("user", content)


def assistant(content: object = None) -> Expr:
    """The assistant's message; without content only its beginning, as ``assistant_begin``."""
    return _in_role("assistant", content)


def system_begin() -> Expr:
    """A system message begins."""
    return RoleBegin("system")


def system_end() -> Expr:
    """The system message ends."""
    return RoleEnd("system")


def user_begin() -> Expr:
    """A user's message begins."""
    return RoleBegin("user")


def user_end() -> Expr:
    """The user's message ends."""
    return RoleEnd("user")


def assistant_begin() -> Expr:
    """The assistant's message begins."""
    return RoleBegin("assistant")


def assistant_end() -> Expr:
    """The assistant's message ends."""
    return RoleEnd("assistant")


def separate_reasoning(expr: object, model_type: str) -> Expr:
    """Split what the model thinks off in each ``gen`` of ``expr``.

    The answer is ``s[name]`` and joins the text; the thoughts are
    ``s[name + "_reasoning_content"]``.

    Args:
        model_type: the format of thoughts, such as ``qwen3`` or ``deepseek-r1``.

    Raises:
        ConfigError: there is no such format.
    """
    ThoughtSplitter(model_type)  # a name that is wrong is refused here
    return ir.with_reasoning(as_expr(expr), model_type)


def _in_role(role: str, content: object) -> Expr:
    return RoleBegin(role) if content is None else InRole(role, as_expr(content))


def _checked_tools(
    tools: Sequence[Callable[..., Any]] | None, n: int, choice: str, rounds: int
) -> tuple[Callable[..., Any], ...]:
    """The tools, each of which can be described.

    Raises:
        ProgramError: one cannot, or what goes with them is wrong.
    """
    if not tools:
        if choice != "auto":
            raise ProgramError("gen(tool_choice=…) needs tools")
        return ()
    names = [describe(tool)["function"]["name"] for tool in tools]
    if len(set(names)) < len(names):
        raise ProgramError(f"gen(tools=…): two of them are named alike: {', '.join(names)}")
    if choice not in ("auto", "required", *names):
        raise ProgramError(f"gen(tool_choice={choice!r}): must be auto, required, or a tool's name")
    if rounds < 1 or n > 1:
        raise ProgramError("gen(tools=…) takes one sample, and at least one round")
    return tuple(tools)
