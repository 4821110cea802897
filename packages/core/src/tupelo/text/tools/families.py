"""All families, by each of their names."""

from dataclasses import replace

from tupelo.text.tools.channels import ChannelFormat
from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.json_calls import JsonFormat
from tupelo.text.tools.json_families import JSON_FAMILIES
from tupelo.text.tools.markup_families import MARKUP_FAMILIES
from tupelo.text.tools.pythonic_calls import PythonicFormat
from tupelo.text.tools.structures import STRUCTURES

HARMONY = ChannelFormat()
HARMONY_PADDED = ChannelFormat(padded=True)
MUSE = ChannelFormat(
    header_starts=(" to=", "<|message|>"),
    ends=("<|eom|>", "<|eot|>"),
    thoughts=frozenset({"self"}),
    users=frozenset({"user"}),
    prefix="",
)
_LFM2 = PythonicFormat(
    opens=("<|tool_call_start|>",),
    closes=("<|tool_call_end|>",),
    listed=JsonFormat(opens=("<|tool_call_start|>",), closes=("<|tool_call_end|>",)),
)
_OTHERS = (
    ToolFamily(
        "pythonic",
        PythonicFormat(opens=("<|python_start|>",), closes=("<|python_end|>",), bare=True),
        ("llama4", "llama4_pythonic", "llama32_pythonic", "gemma3_pythonic"),
    ),
    ToolFamily(
        "olmo3",
        PythonicFormat(opens=("<function_calls>",), closes=("</function_calls>",), lines=True),
    ),
    ToolFamily("lfm2", _LFM2),
    ToolFamily("gpt-oss", HARMONY, ("gpt_oss", "openai", "harmony")),
    ToolFamily("llm-jp", HARMONY_PADDED, ("llm_jp",)),
    ToolFamily("muse", MUSE, ("muse_glimmer",)),
)
_ALL = tuple(
    replace(family, structures=STRUCTURES.get(family.name, ()))
    for family in (*JSON_FAMILIES, *MARKUP_FAMILIES, *_OTHERS)
)
TOOL_FAMILIES = {name: family for family in _ALL for name in (family.name, *family.aliases)}
"""Every family by each of its names."""
