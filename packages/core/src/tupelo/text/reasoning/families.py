"""How each family of models marks its thoughts."""

from dataclasses import dataclass

from tupelo.text.reasoning.split import ThinkFormat
from tupelo.text.tools.channels import ChannelFormat
from tupelo.text.tools.families import HARMONY, HARMONY_PADDED, MUSE
from tupelo.text.tools.markup_families import KIMI_K3_DROPPED

_DSML = ("<｜DSML｜function_calls>", "<｜DSML｜tool_calls>")
_KIMI_CALLS = ("<|tool_calls_section_begin|>", "<|tool_call_begin|>")
_ANSWER = ("<answer>", "\n</answer>", "</answer>")
_COHERE = ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>")


@dataclass(frozen=True)
class ReasoningFamily:
    """A named format. ``aliases``: other names for it, SGLang's and vLLM's among them."""

    name: str
    form: ThinkFormat | ChannelFormat
    aliases: tuple[str, ...] = ()


def _think(
    *,
    begins_inside: bool = False,
    opened_twice: str = "dropped",
    stray_close: str = "dropped",
    unended: str = "thoughts",
    interrupts: tuple[str, ...] = (),
    dropped: tuple[str, ...] = (),
) -> ThinkFormat:
    """``<think>``, which most families use."""
    return ThinkFormat(
        opens=("<think>",),
        close="</think>",
        begins_inside=begins_inside,
        opened_twice=opened_twice,
        stray_close=stray_close,
        unended=unended,
        interrupts=interrupts,
        dropped=dropped,
    )


_ALL = (
    ReasoningFamily(
        "deepseek-r1", _think(begins_inside=True), ("deepseek_r1", "qwq", "ernie45", "spark25")
    ),
    ReasoningFamily(
        "deepseek-v3",
        _think(stray_close="text"),
        ("deepseek_v3", "deepseek_v31", "deepseek_v32", "deepseek_v3_hybrid", "holo2"),
    ),
    ReasoningFamily("deepseek-v4", _think(interrupts=_DSML), ("deepseek_v4",)),
    ReasoningFamily(
        "qwen3", _think(opened_twice="thoughts", interrupts=("<tool_call>",)), ("smollm3",)
    ),
    ReasoningFamily(
        "qwen3-thinking",
        _think(begins_inside=True, interrupts=("<tool_call>",)),
        ("qwen3_thinking",),
    ),
    ReasoningFamily("glm45", _think(), ("glm47", "glm", "granite3", "lfm2", "olmo3", "ling3")),
    ReasoningFamily("hunyuan", _think(), ("hunyuan_v3", "hy_v3", "minicpm5", "reka")),
    ReasoningFamily(
        "hunyuan-opensource",
        ThinkFormat(opens=("<think:opensource>",), close="</think:opensource>"),
        ("hunyuan_v3_opensource",),
    ),
    ReasoningFamily("hunyuan-a13b", _think(dropped=_ANSWER), ("hunyuan_a13b",)),
    ReasoningFamily(
        "kimi_k2", _think(interrupts=_KIMI_CALLS), ("kimi_k2_thinking", "kimi_k2.5", "kimi-k2")
    ),
    ReasoningFamily("kimi", ThinkFormat(opens=("◁think▷",), close="◁/think▷"), ("kimi_old",)),
    ReasoningFamily(
        "kimi_k3",
        ThinkFormat(
            opens=("<|open|>think<|sep|>",),
            close="<|close|>think<|sep|>",
            dropped=KIMI_K3_DROPPED,
        ),
    ),
    ReasoningFamily(
        "nemotron_3", _think(unended="text"), ("nemotron_v3", "nemotron_v2", "nemotron")
    ),
    ReasoningFamily("minimax", _think(begins_inside=True), ("minimax_m2", "minimax-m2")),
    ReasoningFamily(
        "minimax-append-think",
        ThinkFormat(opens=("<think>",), close="</think>", shown="<think>"),
        ("minimax_m2_append_think",),
    ),
    ReasoningFamily(
        "minimax-m3", ThinkFormat(opens=("<mm:think>",), close="</mm:think>"), ("minimax_m3",)
    ),
    ReasoningFamily("step3", _think(begins_inside=True), ("step3p5",)),
    ReasoningFamily(
        "seed_oss", ThinkFormat(opens=("<seed:think>",), close="</seed:think>"), ("seed-oss",)
    ),
    ReasoningFamily(
        "mistral",
        ThinkFormat(opens=("[THINK]",), close="[/THINK]"),
        ("magistral", "mistral_think"),
    ),
    ReasoningFamily(
        "gemma4",
        ThinkFormat(opens=("<|channel>",), close="<channel|>", label="thought", repeats=True),
    ),
    ReasoningFamily(
        "granite",
        ThinkFormat(
            opens=("Here is my thought process:", "Here's my thought process:"),
            close="Here is my response:",
        ),
        ("granite32",),
    ),
    ReasoningFamily(
        "cohere",
        ThinkFormat(opens=("<|START_THINKING|>",), close="<|END_THINKING|>", dropped=_COHERE),
        ("cohere_command", "cohere_command3", "cohere_command4"),
    ),
    ReasoningFamily(
        "apriel",
        ThinkFormat(
            opens=("Here are my reasoning steps:\n",),
            close="[BEGIN FINAL RESPONSE]",
            prompted_text="Here are my reasoning steps:\n",
        ),
    ),
    ReasoningFamily("gpt-oss", HARMONY, ("gpt_oss", "openai_gptoss", "harmony")),
    ReasoningFamily("llm-jp", HARMONY_PADDED, ("llm_jp",)),
    ReasoningFamily("muse", MUSE, ("muse_glimmer",)),
)
REASONING_FAMILIES = {name: family for family in _ALL for name in (family.name, *family.aliases)}
"""Every family by each of its names."""
