"""Families whose calls are JSON, with the name inside it or before it."""

import re

from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.json_calls import JsonFormat
from tupelo.text.tools.named_calls import NamedFormat
from tupelo.text.tools.source import MalformedError

_KIMI_NAME = re.compile(r"\s*((?:functions\.)?([^\s:]+):[0-9]+)\s*")
_MISTRAL_NAME = re.compile(r"\s*([^\s\[]+)(?:\[CALL_ID\]([^\s\[]*))?\s*")


def _kimi_name(header: str) -> tuple[str, str | None]:
    """``functions.NAME:INDEX``, which is also the call's id."""
    found = _KIMI_NAME.fullmatch(header)
    if found is None:
        raise MalformedError
    return found[2], found[1]


def _mistral_name(header: str) -> tuple[str, str | None]:
    """``NAME``, or ``NAME[CALL_ID]ID``."""
    found = _MISTRAL_NAME.fullmatch(header)
    if found is None:
        raise MalformedError
    return found[1], found[2] or None


_HERMES = JsonFormat(opens=("<tool_call>",), closes=("</tool_call>",))
_LISTED = JsonFormat(opens=("<tool_calls>",), closes=("</tool_calls>",), text_after=False)
_DEEPSEEK_V3 = NamedFormat(
    sections=("<｜tool▁calls▁begin｜>",),
    opens=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>",),
    name_ends=("\n```json",),
    closes=("```<｜tool▁call▁end｜>", "```\n<｜tool▁call▁end｜>", "<｜tool▁call▁end｜>"),
    section_closes=("<｜tool▁calls▁end｜>",),
    text_after=False,
)
_DEEPSEEK_V31 = NamedFormat(
    sections=("<｜tool▁calls▁begin｜>",),
    opens=("<｜tool▁call▁begin｜>",),
    name_ends=("<｜tool▁sep｜>",),
    closes=("<｜tool▁call▁end｜>",),
    section_closes=("<｜tool▁calls▁end｜>",),
    text_after=False,
)
_KIMI_K2 = NamedFormat(
    sections=("<|tool_calls_section_begin|>",),
    opens=("<|tool_call_begin|>",),
    name_ends=("<|tool_call_argument_begin|>",),
    closes=("<|tool_call_end|>",),
    section_closes=("<|tool_calls_section_end|>",),
    name=_kimi_name,
)
_MISTRAL_LIST = JsonFormat(opens=("[TOOL_CALLS]",), text_after=False)
_MISTRAL = NamedFormat(
    opens=("[TOOL_CALLS]",),
    name_ends=("[ARGS]", "{"),
    name=_mistral_name,
    listed=_MISTRAL_LIST,
    text_after=False,
)
_COHERE_DROPPED = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")
_COHERE = JsonFormat(
    opens=("<|START_ACTION|>",),
    closes=("<|END_ACTION|>",),
    names=("tool_name",),
    ids=(),
    dropped=_COHERE_DROPPED,
)
_COMMAND_R = JsonFormat(
    opens=("Action:\n```json",),
    closes=("```",),
    ambiguous=("Action:\n```json",),
    names=("tool_name",),
    ids=(),
    dropped=("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
)
_GIGACHAT = JsonFormat(
    opens=("<|function_call|>", "<|message_sep|>\n\nfunction call<|role_sep|>\n"),
    text_after=False,
)
_XLAM = JsonFormat(
    opens=("```json", "[TOOL_CALLS]", "<tool_call>"),
    bare=("[{",),
    closes=("```", "</tool_call>"),
    ambiguous=("```json",),
)
_GEMMA = NamedFormat(
    opens=("<|tool_call>call:",),
    name_ends=("{",),
    closes=("<tool_call|>",),
    gemma_quote='<|"|>',
)
_FUNCTION_GEMMA = NamedFormat(
    opens=("<start_function_call>call:",),
    name_ends=("{",),
    closes=("<end_function_call>",),
    gemma_quote="<escape>",
)

JSON_FAMILIES = (
    ToolFamily(
        "hermes",
        _HERMES,
        ("qwen25", "qwen", "qwen3", "hermes_qwen25", "ernie45", "granite4", "reka"),
    ),
    ToolFamily(
        "longcat",
        JsonFormat(
            opens=("<longcat_tool_call>",), closes=("</longcat_tool_call>",), text_after=False
        ),
    ),
    ToolFamily("granite", JsonFormat(opens=("<|tool_call|>", "<tool_call>")), ("granite3",)),
    ToolFamily("granite-20b-fc", JsonFormat(opens=("<function_call>",)), ("granite_20b_fc",)),
    ToolFamily(
        "apertus",
        JsonFormat(opens=("<|tools_prefix|>",), closes=("<|tools_suffix|>",), keyed=True),
        ("apertus2509",),
    ),
    ToolFamily("hunyuan_a13b", _LISTED, ("jamba", "apriel")),
    ToolFamily("cohere", _COHERE, ("cohere_command", "cohere_command3", "cohere_command4")),
    ToolFamily("command_r", _COMMAND_R, ("cohere_command_r_plus",)),
    ToolFamily(
        "phi4_mini",
        JsonFormat(
            opens=("functools",), ambiguous=("functools",), text_after=False, introduced=True
        ),
        ("phi4_mini_json", "firefunction_v2"),
    ),
    ToolFamily(
        "internlm",
        JsonFormat(
            opens=("<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"),
            closes=("<|action_end|>",),
        ),
        ("internlm2", "interns1"),
    ),
    ToolFamily(
        "nemotron", JsonFormat(opens=("<TOOLCALL>",), closes=("</TOOLCALL>",)), ("nemotron_v2",)
    ),
    ToolFamily(
        "llama3",
        JsonFormat(
            opens=("<|python_tag|>",),
            bare=("{",),
            separators=";,",
            text_after=False,
            introduced=True,
        ),
        ("llama3_json", "llama4_json", "llama3_json_python_tag"),
    ),
    ToolFamily("gigachat3", _GIGACHAT),
    ToolFamily("xlam", _XLAM),
    ToolFamily("deepseekv3", _DEEPSEEK_V3, ("deepseek_v3", "deepseek_r1")),
    ToolFamily("deepseekv31", _DEEPSEEK_V31, ("deepseek_v31",)),
    ToolFamily("kimi_k2", _KIMI_K2, ("kimi-k2",), "kimi"),
    ToolFamily(
        "mistral",
        _MISTRAL,
        ("mistral_v3", "mistral_v3_with_id", "mistral_v11", "mistral_v11_args_token_hidden"),
        "mistral",
    ),
    ToolFamily(
        "functionary_v31",
        NamedFormat(opens=("<function=",), name_ends=(">",), closes=("</function>",)),
    ),
    ToolFamily(
        "functionary_v32",
        NamedFormat(opens=(">>>",), name_ends=("\n",), begins_in_header=True, text_name="all"),
    ),
    ToolFamily("gemma4", _GEMMA),
    ToolFamily("functiongemma", _FUNCTION_GEMMA),
)
