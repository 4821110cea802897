"""How a grammar has the families write calls, by name; see ``Structure``.

Families that are absent have no room for arguments in JSON: calls of Python's, and tags within
tags. ``LIST`` stands in for these, and for models whose format nobody knows.
"""

from tupelo.text.tools.structure import Structure

LIST = Structure(
    opening="[",
    before='{"name": "',
    middle='", "parameters": ',
    end="}",
    separator=", ",
    closing="]",
)


def _tagged(before: str, after: str) -> Structure:
    """``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, one a call."""
    return Structure(
        before=f'{before}{{"name": "',
        middle='", "arguments": ',
        end=f"}}{after}",
        separator="\n",
    )


def _listed(before: str, after: str, name: str = "name", arguments: str = "arguments") -> Structure:
    """``<TOOLCALL>[{"name": …, "arguments": {…}}, …]</TOOLCALL>``."""
    return Structure(
        opening=f"{before}[",
        before=f'{{"{name}": "',
        middle=f'", "{arguments}": ',
        end="}",
        separator=", ",
        closing=f"]{after}",
    )


def _hunyuan(suffix: str = "") -> Structure:
    return Structure(
        opening=f"<tool_calls{suffix}>\n",
        before=f"<tool_call{suffix}>",
        middle=f"<tool_sep{suffix}>\n",
        end=f"\n</tool_call{suffix}>",
        separator="\n",
        closing=f"\n</tool_calls{suffix}>",
    )


def _dsml(section: str) -> Structure:
    return Structure(
        opening=f"<｜DSML｜{section}>\n",
        before='<｜DSML｜invoke name="',
        middle='">\n',
        end="\n</｜DSML｜invoke>",
        separator="\n",
        closing=f"\n</｜DSML｜{section}>",
    )


_DEEPSEEK_V3 = Structure(
    opening="<｜tool▁calls▁begin｜>",
    before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    middle="\n```json\n",
    end="\n```<｜tool▁call▁end｜>",
    separator="\n",
    closing="<｜tool▁calls▁end｜>",
)
_DEEPSEEK_V31 = Structure(
    opening="<｜tool▁calls▁begin｜>",
    before="<｜tool▁call▁begin｜>",
    middle="<｜tool▁sep｜>",
    end="<｜tool▁call▁end｜>",
    closing="<｜tool▁calls▁end｜>",
)
_KIMI_K2 = Structure(
    opening="<|tool_calls_section_begin|>",
    before="<|tool_call_begin|>functions.",
    middle="<|tool_call_argument_begin|>",
    end="<|tool_call_end|>",
    closing="<|tool_calls_section_end|>",
    numbered=True,
)
_HARMONY = Structure(
    before="<|channel|>commentary to=functions.",
    middle=" <|constrain|>json<|message|>",
    most=1,
)
_GLM = Structure(before="<tool_call>", middle="\n", end="\n</tool_call>", separator="\n")
_QWEN = Structure(
    before="<tool_call>\n<function=",
    middle=">\n",
    end="\n</function>\n</tool_call>",
    separator="\n",
)
_SEED = Structure(
    before="<seed:tool_call>\n<function=",
    middle=">\n",
    end="\n</function>\n</seed:tool_call>",
    separator="\n",
)
_MINIMAX = Structure(
    opening="<minimax:tool_call>\n",
    before='<invoke name="',
    middle='">\n',
    end="\n</invoke>",
    separator="\n",
    closing="\n</minimax:tool_call>",
)
_STEP3 = Structure(
    opening="<｜tool_calls_begin｜>\n",
    before='<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="',
    middle='">\n',
    end="\n</steptml:invoke><｜tool_call_end｜>",
    separator="\n",
    closing="\n<｜tool_calls_end｜>",
)
_APERTUS = Structure(
    opening="<|tools_prefix|>[",
    before='{"',
    middle='": ',
    end="}",
    separator=", ",
    closing="]<|tools_suffix|>",
)

STRUCTURES: dict[str, tuple[Structure, ...]] = {
    "hermes": (_tagged("<tool_call>\n", "\n</tool_call>"),),
    "longcat": (_tagged("<longcat_tool_call>", "</longcat_tool_call>"),),
    "granite": (_listed("<|tool_call|>", ""),),
    "granite-20b-fc": (_tagged("<function_call> ", ""),),
    "apertus": (_APERTUS,),
    "hunyuan_a13b": (_listed("<tool_calls>", "</tool_calls>"),),
    "cohere": (_listed("<|START_ACTION|>", "<|END_ACTION|>", "tool_name", "parameters"),),
    "command_r": (_listed("Action:\n```json\n", "\n```", "tool_name", "parameters"),),
    "phi4_mini": (_listed("functools", ""),),
    "internlm": (_tagged("<|action_start|><|plugin|>\n", "<|action_end|>"),),
    "nemotron": (_listed("<TOOLCALL>", "</TOOLCALL>"),),
    "llama3": (
        Structure(before='{"name": "', middle='", "parameters": ', end="}", separator="; "),
    ),
    "gigachat3": (
        Structure(before='<|function_call|>{"name": "', middle='", "arguments": ', end="}", most=1),
    ),
    "xlam": (_listed("", ""),),
    "deepseekv3": (_DEEPSEEK_V3,),
    "deepseekv31": (_DEEPSEEK_V31,),
    "deepseekv32": (_dsml("function_calls"),),
    "deepseekv4": (_dsml("tool_calls"),),
    "kimi_k2": (_KIMI_K2,),
    "mistral": (
        Structure(before="[TOOL_CALLS]", middle="[ARGS]", needs="[ARGS]"),
        _listed("[TOOL_CALLS]", ""),
    ),
    "functionary_v31": (Structure(before="<function=", middle=">", end="</function>"),),
    "gemma4": (Structure(before="<|tool_call>call:", middle="", end="<tool_call|>"),),
    "functiongemma": (
        Structure(before="<start_function_call>call:", middle="", end="<end_function_call>"),
    ),
    "qwen3_coder": (_QWEN,),
    "seed_oss": (_SEED,),
    "glm45": (_GLM,),
    "ling3": (_GLM,),
    "hunyuan": (_hunyuan(),),
    "hunyuan_opensource": (_hunyuan(":opensource"),),
    "minimax-m2": (_MINIMAX,),
    "step3": (_STEP3,),
    "minicpm5": (Structure(before='<function name="', middle='">', end="</function>"),),
    "lfm2": (_listed("<|tool_call_start|>", "<|tool_call_end|>"),),
    "gpt-oss": (_HARMONY,),
}
