"""Families whose calls are markup, a tag for each parameter."""

from dataclasses import replace

from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.nested_calls import NestedFormat
from tupelo.text.tools.param_calls import ParamFormat

_QWEN = ParamFormat(
    sections=("<tool_call>",),
    opens=("<function=",),
    name_ends=(">",),
    params=("<parameter=",),
    key_end=">",
    value_close="</parameter>",
    call_close="</function>",
    section_close="</tool_call>",
    lines=True,
)
_SEED = replace(
    _QWEN, sections=("<seed:tool_call>",), section_close="</seed:tool_call>", lines=False
)
_GLM = ParamFormat(
    opens=("<tool_call>",),
    name_ends=("<arg_key>", "</tool_call>", "{"),
    params=("<arg_key>",),
    key_end="</arg_key>",
    value="<arg_value>",
    value_close="</arg_value>",
    call_close="</tool_call>",
)


def _hunyuan(suffix: str = "") -> ParamFormat:
    return ParamFormat(
        sections=(f"<tool_calls{suffix}>",),
        opens=(f"<tool_call{suffix}>",),
        name_ends=(f"<tool_sep{suffix}>",),
        params=(f"<arg_key{suffix}>",),
        key_end=f"</arg_key{suffix}>",
        value=f"<arg_value{suffix}>",
        value_close=f"</arg_value{suffix}>",
        call_close=f"</tool_call{suffix}>",
        section_close=f"</tool_calls{suffix}>",
    )


def _dsml(section: str) -> ParamFormat:
    return ParamFormat(
        sections=(f"<｜DSML｜{section}>",),
        opens=('<｜DSML｜invoke name="',),
        name_ends=('">',),
        params=('<｜DSML｜parameter name="',),
        key_end=">",
        value_close="</｜DSML｜parameter>",
        call_close="</｜DSML｜invoke>",
        section_close=f"</｜DSML｜{section}>",
        bare=False,
        text_after=False,
    )


_MINIMAX = ParamFormat(
    sections=("<minimax:tool_call>",),
    opens=('<invoke name="',),
    name_ends=('">',),
    params=('<parameter name="',),
    key_end=">",
    value_close="</parameter>",
    call_close="</invoke>",
    section_close="</minimax:tool_call>",
    bare=False,
)
_STEP3 = ParamFormat(
    sections=("<｜tool_calls_begin｜>",),
    opens=('<steptml:invoke name="',),
    name_ends=('">',),
    params=('<steptml:parameter name="',),
    key_end=">",
    value_close="</steptml:parameter>",
    call_close="</steptml:invoke>",
    section_close="<｜tool_calls_end｜>",
    bare=False,
    between=("<｜tool_call_begin｜>", "function<｜tool_sep｜>", "<｜tool_call_end｜>"),
)
_MINICPM = ParamFormat(
    opens=('<function name="', '<functionname="'),
    name_ends=('">',),
    params=('<param name="', '<paramname="'),
    key_end='">',
    value_close="</param>",
    call_close="</function>",
    cdata=True,
    strict=True,
    text_after=False,
    introduced=True,
    replaced=(("Ġ", " "), ("Ċ", "\n")),
)
KIMI_K3_DROPPED = (
    "<|open|>response<|sep|>",
    "<|close|>response<|sep|>",
    "<|close|>message<|sep|>",
    "<|end_of_msg|>",
)
_KIMI_K3 = ParamFormat(
    sections=("<|open|>tools<|sep|>",),
    opens=('<|open|>call tool="',),
    name_ends=('"',),
    params=('<|open|>argument key="',),
    key_end="<|sep|>",
    value_close="<|close|>argument<|sep|>",
    call_close="<|close|>call<|sep|>",
    section_close="<|close|>tools<|sep|>",
    bare=False,
    dropped=KIMI_K3_DROPPED,
)

MARKUP_FAMILIES = (
    ToolFamily(
        "qwen3_coder", _QWEN, ("qwen3_xml", "nemotron_xml", "nemotron_3", "mimo", "step3p5")
    ),
    ToolFamily("seed_oss", _SEED, ("seed-oss",)),
    ToolFamily(
        "glm45",
        _GLM,
        ("glm", "glm46", "glm47", "poolside_v1", "spark25"),
    ),
    ToolFamily("ling3", replace(_GLM, dropped=("<|role_end|>",))),
    ToolFamily("hunyuan", _hunyuan(), ("hunyuan_v3", "hy_v3")),
    ToolFamily("hunyuan_opensource", _hunyuan(":opensource"), ("hunyuan_v3_opensource",)),
    ToolFamily("deepseekv32", _dsml("function_calls"), ("deepseek_v32",)),
    ToolFamily("deepseekv4", _dsml("tool_calls"), ("deepseek_v4",)),
    ToolFamily("minimax-m2", _MINIMAX, ("minimax_m2",)),
    ToolFamily("minimax-m3", NestedFormat(mark="]<]minimax[>["), ("minimax_m3",)),
    ToolFamily("step3", _STEP3),
    ToolFamily("minicpm5", _MINICPM),
    ToolFamily("kimi_k3", _KIMI_K3),
)
