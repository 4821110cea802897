"""Which formats a model writes, told from its chat template.

A template shows calls and thoughts of earlier turns as the model writes them, so the markers in its
source name the format. The first rule whose words all occur decides.
"""

from collections.abc import Mapping
from typing import TypeVar

from tupelo.errors import ConfigError
from tupelo.text.reasoning.families import REASONING_FAMILIES, ReasoningFamily
from tupelo.text.tools.families import TOOL_FAMILIES
from tupelo.text.tools.family import ToolFamily

T = TypeVar("T")

_TOOL_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("minimax-m3", ("]<]minimax[>[",)),
    ("minimax-m2", ("<minimax:tool_call>",)),
    ("deepseekv32", ("｜DSML｜", "function_calls>")),
    ("deepseekv4", ("｜DSML｜",)),
    ("deepseekv3", ("<｜tool▁calls▁begin｜>", "```json")),
    ("deepseekv31", ("<｜tool▁calls▁begin｜>",)),
    ("step3", ("<steptml:invoke",)),
    ("kimi_k3", ("<|open|>", "<|sep|>")),
    ("kimi_k2", ("<|tool_calls_section_begin|>",)),
    ("gpt-oss", ("<|channel|>", "functions.")),
    ("seed_oss", ("<seed:tool_call>",)),
    ("hunyuan_opensource", ("<tool_sep", ":opensource")),
    ("hunyuan", ("<tool_sep",)),
    ("ling3", ("<arg_key>", "<|role_end|>")),
    ("glm45", ("<arg_key>",)),
    ("minicpm5", ("<function name=", "<param name=")),
    ("qwen3_coder", ("<function=", "<parameter=")),
    ("gemma4", ("<|tool_call>", "<tool_call|>")),
    ("functiongemma", ("<start_function_call>",)),
    ("cohere", ("<|START_ACTION|>",)),
    ("command_r", ("<|CHATBOT_TOKEN|>", "Action:")),
    ("apertus", ("<|tools_prefix|>",)),
    ("gigachat3", ("<|function_call|>",)),
    ("gigachat3", ("function call<|role_sep|>",)),
    ("lfm2", ("<|tool_call_start|>",)),
    ("lfm2", ("<|tool_list_start|>",)),
    ("olmo3", ("<function_calls>",)),
    ("longcat", ("<longcat_tool_call>",)),
    ("nemotron", ("<TOOLCALL>",)),
    ("internlm", ("<|action_start|>",)),
    ("granite", ("<|tool_call|>",)),
    ("granite-20b-fc", ("<function_call>",)),
    ("mistral", ("[TOOL_CALLS]",)),
    ("hunyuan_a13b", ("<tool_calls>",)),
    ("hermes", ("<tool_call>",)),
    ("functionary_v32", (">>>all",)),
    ("functionary_v31", ("<function=",)),
    ("phi4_mini", ("functools",)),
    ("phi4_mini", ("<|tool|>", "<|/tool|>")),
    ("pythonic", ("<|python_start|>",)),
    ("pythonic", ("[func_name1(",)),
    ("llama3", ("<|python_tag|>",)),
    ("llama3", ('"parameters"', "tool_call")),
)
_THINK_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("gpt-oss", ("<|channel|>analysis",)),
    ("minimax-m3", ("<mm:think>",)),
    ("seed_oss", ("<seed:think>",)),
    ("hunyuan-opensource", ("<think", ":opensource")),
    ("kimi_k3", ("<|open|>", "<|sep|>", "think")),
    ("gemma4", ("<|channel>thought",)),
    ("cohere", ("<|START_THINKING|>",)),
    ("mistral", ("[THINK]",)),
    ("kimi", ("◁think▷",)),
    ("apriel", ("[BEGIN FINAL RESPONSE]",)),
    ("deepseek-v3", ("<think>", "｜DSML｜", "function_calls>")),
    ("deepseek-v4", ("<think>", "｜DSML｜")),
    ("deepseek-v3", ("<think>", "<｜tool▁sep｜>", "thinking")),
    ("kimi_k2", ("<think>", "<|tool_calls_section_begin|>")),
    ("minimax", ("<think>", "<minimax:tool_call>")),
    ("hunyuan-a13b", ("<think>", "<answer>")),
    ("nemotron_3", ("<think>", "<TOOLCALL>")),
    ("glm45", ("<think>", "<arg_key>")),
    ("step3", ("<think>", "<steptml:invoke")),
    ("granite", ("thought process:", "<|start_of_role|>")),
    ("qwen3", ("<think>", "<tool_call>")),
    ("deepseek-r1", ("<think>", "<｜Assistant｜>")),
    ("glm45", ("<think>",)),
)


def detected_tools(template: str) -> ToolFamily | None:
    """How a model with this chat template writes tool calls; None if the template does not say."""
    return _first(_TOOL_RULES, TOOL_FAMILIES, template)


def detected_reasoning(template: str) -> ReasoningFamily | None:
    """How a model with this chat template marks its thoughts; None if it has none."""
    return _first(_THINK_RULES, REASONING_FAMILIES, template)


def named_tools(name: str) -> ToolFamily:
    """The format of tool calls that is called so, here or elsewhere.

    Raises:
        ConfigError: none is.
    """
    return _named("tool call parser", name, TOOL_FAMILIES)


def named_reasoning(name: str) -> ReasoningFamily:
    """The format of reasoning that is called so, here or elsewhere.

    Raises:
        ConfigError: none is.
    """
    return _named("reasoning parser", name, REASONING_FAMILIES)


def _named(kind: str, name: str, families: Mapping[str, T]) -> T:
    if name not in families:
        raise ConfigError(f"{kind} {name!r:.60}: there is none; known: {', '.join(families)}")
    return families[name]


def _first(
    rules: tuple[tuple[str, tuple[str, ...]], ...], families: Mapping[str, T], template: str
) -> T | None:
    for name, words in rules:
        if all(word in template for word in words):
            return families[name]
    return None
