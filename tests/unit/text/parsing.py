"""What the tests of output parsing share: ways to cut a text, and specimens composed for them.

The specimens follow the formats as their models' chat templates and documentation show them.
"""

import random
from collections.abc import Iterator
from typing import Any

from tupelo.text.output_parser import OutputParser
from tupelo.text.tools.events import Parsed, fold

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "where": {"type": "object"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["place"],
            },
        },
    },
    {"type": "function", "function": {"name": "ping", "parameters": {"type": "object"}}},
]
LOOKUP = ("lookup", {"place": 'Ōsaka, "the 2nd"', "days": 3})
PING = ("ping", {})
JSON_LOOKUP = r'{"place": "Ōsaka, \"the 2nd\"", "days": 3}'
MARKUP_PLACE = 'Ōsaka, "the 2nd"'

# Family, and an output of it: a sentence where the format has one, then the calls LOOKUP and PING.
TOOL_SPECIMENS: list[tuple[str, str]] = [
    (
        "hermes",
        f'Wait.\n<tool_call>\n{{"name": "lookup", "arguments": {JSON_LOOKUP}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>',
    ),
    (
        "llama3",
        f'{{"name": "lookup", "parameters": {JSON_LOOKUP}}}; '
        '{"name": "ping", "parameters": {}}',
    ),
    (
        "llama3",
        f'<|python_tag|>{{"name": "lookup", "parameters": {JSON_LOOKUP}}};'
        '{"name": "ping", "parameters": {}}',
    ),
    (
        "mistral",
        f'Wait.[TOOL_CALLS] [{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]',
    ),
    ("mistral", f"Wait.[TOOL_CALLS]lookup[ARGS]{JSON_LOOKUP}[TOOL_CALLS]ping[ARGS]{{}}"),
    (
        "deepseekv3",
        "Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>lookup\n```json\n"
        f"{JSON_LOOKUP}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>ping\n"
        "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "deepseekv31",
        f"Wait.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>lookup<｜tool▁sep｜>{JSON_LOOKUP}"
        "<｜tool▁call▁end｜><｜tool▁call▁begin｜>ping<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
        "<｜tool▁calls▁end｜>",
    ),
    *[
        (
            family,
            f"Wait.\n\n<｜DSML｜{section}>\n"
            '<｜DSML｜invoke name="lookup">\n'
            f'<｜DSML｜parameter name="place" string="true">{MARKUP_PLACE}</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n'
            '</｜DSML｜invoke>\n<｜DSML｜invoke name="ping">\n</｜DSML｜invoke>\n'
            f"</｜DSML｜{section}>",
        )
        for family, section in (("deepseekv32", "function_calls"), ("deepseekv4", "tool_calls"))
    ],
    (
        "kimi_k2",
        "Wait.<|tool_calls_section_begin|><|tool_call_begin|>functions.lookup:0"
        f"<|tool_call_argument_begin|>{JSON_LOOKUP}<|tool_call_end|><|tool_call_begin|>"
        "functions.ping:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        "kimi_k3",
        "<|open|>response<|sep|>Wait.<|close|>response<|sep|><|open|>tools<|sep|>"
        '<|open|>call tool="lookup" index="1"<|sep|><|open|>argument key="place" type="string"'
        f'<|sep|>{MARKUP_PLACE}<|close|>argument<|sep|><|open|>argument key="days" type="number"'
        "<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|>"
        '<|open|>call tool="ping" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|>'
        "<|close|>message<|sep|>",
    ),
    (
        "qwen3_coder",
        "Wait.\n<tool_call>\n<function=lookup>\n<parameter=place>\n"
        f"{MARKUP_PLACE}\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=ping>\n</function>\n</tool_call>",
    ),
    (
        "seed_oss",
        f"Wait.<seed:tool_call>\n<function=lookup>\n<parameter=place>{MARKUP_PLACE}</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>\n"
        "<seed:tool_call>\n<function=ping>\n</function>\n</seed:tool_call>",
    ),
    (
        "glm45",
        "Wait.\n<tool_call>lookup\n<arg_key>place</arg_key>\n"
        f"<arg_value>{MARKUP_PLACE}</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n<tool_call>ping\n</tool_call>",
    ),
    (
        "hunyuan",
        "Wait.<tool_calls>\n<tool_call>lookup<tool_sep>\n<arg_key>place</arg_key>\n"
        f"<arg_value>{MARKUP_PLACE}</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n"
        "</tool_call>\n<tool_call>ping<tool_sep>\n</tool_call>\n</tool_calls>",
    ),
    (
        "minimax-m2",
        'Wait.\n<minimax:tool_call>\n<invoke name="lookup">\n'
        f'<parameter name="place">{MARKUP_PLACE}</parameter>\n'
        '<parameter name="days">3</parameter>\n'
        '</invoke>\n<invoke name="ping">\n</invoke>\n</minimax:tool_call>',
    ),
    (
        "minimax-m3",
        "Wait.]<]minimax[>[<tool_call>\n"
        ']<]minimax[>[<invoke name="lookup">'
        f"]<]minimax[>[<place>{MARKUP_PLACE}]<]minimax[>[</place>"
        "]<]minimax[>[<days>3]<]minimax[>[</days>]<]minimax[>[</invoke>\n"
        ']<]minimax[>[<invoke name="ping">]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>',
    ),
    (
        "step3",
        "Wait.<｜tool_calls_begin｜>\n<｜tool_call_begin｜>function<｜tool_sep｜>"
        f'<steptml:invoke name="lookup">\n<steptml:parameter name="place">{MARKUP_PLACE}'
        '</steptml:parameter>\n<steptml:parameter name="days">3</steptml:parameter>\n'
        "</steptml:invoke><｜tool_call_end｜>\n<｜tool_call_begin｜>function<｜tool_sep｜>"
        '<steptml:invoke name="ping">\n</steptml:invoke><｜tool_call_end｜>\n<｜tool_calls_end｜>',
    ),
    (
        "minicpm5",
        f'Wait.<function name="lookup"><param name="place"><![CDATA[{MARKUP_PLACE}]]></param>'
        '<param name="days">3</param></function>\n<function name="ping"></function>',
    ),
    ("pythonic", "[lookup(place='Ōsaka, \"the 2nd\"', days=3), ping()]"),
    (
        "lfm2",
        'Wait.<|tool_call_start|>[lookup(place="Ōsaka, \\"the 2nd\\"", days=3), ping()]'
        "<|tool_call_end|>",
    ),
    (
        "olmo3",
        "Wait.<function_calls>lookup(place='Ōsaka, \"the 2nd\"', days=3)\nping()</function_calls>",
    ),
    (
        "gemma4",
        f'Wait.<|tool_call>call:lookup{{place:<|"|>{MARKUP_PLACE}<|"|>,days:3}}<tool_call|>'
        "<|tool_call>call:ping{}<tool_call|>",
    ),
    (
        "functiongemma",
        f"Wait.<start_function_call>call:lookup{{place:<escape>{MARKUP_PLACE}<escape>,days:3}}"
        "<end_function_call><start_function_call>call:ping{}<end_function_call>",
    ),
    (
        "gpt-oss",
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.lookup <|constrain|>json<|message|>{JSON_LOOKUP}<|call|><|start|>assistant"
        "<|channel|>commentary to=functions.ping <|constrain|>json<|message|>{}<|call|>",
    ),
    (
        "cohere",
        '<|START_RESPONSE|>Wait.<|END_RESPONSE|><|START_ACTION|>[\n    {"tool_call_id": "0", '
        f'"tool_name": "lookup", "parameters": {JSON_LOOKUP}}},\n    {{"tool_call_id": "1", '
        '"tool_name": "ping", "parameters": {}}\n]<|END_ACTION|>',
    ),
    (
        "granite",
        f'Wait.<|tool_call|>[{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]',
    ),
    (
        "granite-20b-fc",
        f'Wait.<function_call> {{"name": "lookup", "arguments": {JSON_LOOKUP}}}'
        '<function_call> {"name": "ping", "arguments": {}}',
    ),
    (
        "nemotron",
        f'Wait.<TOOLCALL>[{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]</TOOLCALL>',
    ),
    (
        "internlm",
        f'Wait.<|action_start|><|plugin|>\n{{"name": "lookup", "parameters": {JSON_LOOKUP}}}'
        "<|action_end|><|action_start|><|plugin|>\n"
        '{"name": "ping", "parameters": {}}<|action_end|>',
    ),
    (
        "apertus",
        f'Wait.<|tools_prefix|>[{{"lookup": {JSON_LOOKUP}}}, {{"ping": {{}}}}]<|tools_suffix|>',
    ),
    (
        "phi4_mini",
        f'Wait.functools[{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]',
    ),
    (
        "hunyuan_a13b",
        f'Wait.<tool_calls>[{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]</tool_calls>',
    ),
    (
        "longcat",
        f'Wait.<longcat_tool_call>{{"name": "lookup", "arguments": {JSON_LOOKUP}}}'
        '</longcat_tool_call>\n<longcat_tool_call>{"name": "ping", "arguments": {}}'
        "</longcat_tool_call>",
    ),
    (
        "command_r",
        f'Wait.\nAction:\n```json\n[{{"tool_name": "lookup", "parameters": {JSON_LOOKUP}}}, '
        '{"tool_name": "ping", "parameters": {}}]\n```',
    ),
    (
        "xlam",
        f'Wait.\n```json\n[{{"name": "lookup", "arguments": {JSON_LOOKUP}}}, '
        '{"name": "ping", "arguments": {}}]\n```',
    ),
    (
        "functionary_v31",
        f"Wait.<function=lookup>{JSON_LOOKUP}</function><function=ping>{{}}</function>",
    ),
    ("functionary_v32", f"all\nWait.>>>lookup\n{JSON_LOOKUP}>>>ping\n{{}}"),
]

# Family, whether the prompt opened the thoughts, output, thoughts, answer.
REASONING_SPECIMENS: list[tuple[str, bool | None, str, str, str]] = [
    ("deepseek-r1", True, "Hm.\n\nSo.\n</think>\n\nYes.", "Hm.\n\nSo.", "Yes."),
    ("deepseek-r1", None, "Hm.</think>Yes.", "Hm.", "Yes."),
    ("deepseek-r1", True, "<think>\nHm.</think>Yes.", "Hm.", "Yes."),
    ("deepseek-v3", None, "Yes, </think> ends it.", "", "Yes, </think> ends it."),
    ("qwen3", False, "<think>\nHm.\n</think>\n\nYes.", "Hm.", "Yes."),
    ("qwen3", False, "\n\nYes.\n", "", "\n\nYes.\n"),
    ("qwen3", True, "a < b </thin> c</think>\n    indented", "a < b </thin> c", "    indented"),
    ("qwen3-thinking", True, "Hm.", "Hm.", ""),
    ("glm45", False, "\n<think>Hm.</think>\nYes.", "Hm.", "Yes."),
    ("kimi", False, "◁think▷Hm.◁/think▷Yes.", "Hm.", "Yes."),
    ("mistral", False, "[THINK]Hm.[/THINK]Yes.", "Hm.", "Yes."),
    ("seed_oss", False, "<seed:think>Hm.</seed:think>Yes.", "Hm.", "Yes."),
    ("minimax-m3", False, "<mm:think>Hm.</mm:think>Yes.", "Hm.", "Yes."),
    ("minimax-append-think", None, "Hm.</think>Yes.", "", "<think>Hm.</think>Yes."),
    ("gemma4", False, "<|channel>thought\nHm.<channel|>Yes.", "Hm.", "Yes."),
    ("gemma4", False, "<|channel>thoughtful.<channel|>Yes.", "thoughtful.", "Yes."),
    ("hunyuan-a13b", False, "<think>\nHm.\n</think>\n<answer>\nYes.\n</answer>", "Hm.", "Yes."),
    (
        "granite",
        False,
        "Here is my thought process: Hm. Here is my response: Yes.",
        "Hm.",
        " Yes.",
    ),
    (
        "cohere",
        False,
        "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>",
        "Hm.",
        "Yes.",
    ),
    (
        "kimi_k3",
        True,
        "Hm.<|close|>think<|sep|><|open|>response<|sep|>Yes.<|close|>response<|sep|>",
        "Hm.",
        "Yes.",
    ),
    (
        "gpt-oss",
        False,
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
        "Hm.",
        "Yes.",
    ),
    ("muse", False, " to=self<|message|>Hm.<|eom|><|start|>assistant to=user<|message|>Yes.",
     "Hm.", "Yes."),
]  # fmt: skip


def parse_pieces(pieces: list[str], **options: Any) -> Parsed:
    """The parsed whole of a text that comes in ``pieces``."""
    parser = OutputParser(**options)
    events = [event for piece in pieces for event in parser.push(piece)]
    return fold([*events, *parser.finish()])


def ways_to_cut(text: str, rng: random.Random, num_random: int = 2) -> Iterator[list[str]]:
    """Whole, in pieces of 1, 2, 3 and 7 characters, and at random places."""
    yield [text]
    for size in (1, 2, 3, 7):
        yield [text[i : i + size] for i in range(0, len(text), size)]
    for _ in range(num_random):
        places = sorted(rng.choices(range(len(text) + 1), k=rng.randint(1, 6)))
        yield [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
