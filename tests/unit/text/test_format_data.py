"""Outputs that other projects wrote down, with what their parsers make of them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.unit.text.parsing import parse_pieces, ways_to_cut

from tupelo.text.detect import detected_reasoning, detected_tools, named_reasoning, named_tools
from tupelo.text.tools.events import Call, Parsed

ASKED_AS_JSON = {"llama3_json/llamacpp/6318", "mistral_think/llamacpp/2648"}
"""The tests that these come from ask for the reply as JSON."""
NOT_PROMPTED = {"gemma4/vllm/10"}
"""The opening marker stands in the output, so the prompt did not have it, as the case says."""


def _data(folder: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / name).read_text())
    return data


def _parsed(case: dict[str, Any], rng: random.Random, **options: Any) -> Parsed:
    """The result, which must be the same however the text is cut."""
    first, *others = (
        parse_pieces(pieces, **options)
        for pieces in [*ways_to_cut(case["raw"], rng), case.get("chunks") or [case["raw"]]]
    )
    for other in others:
        assert other == first, case["id"]
    return first


def _same(call: Call, expected: dict[str, Any]) -> bool:
    if "arguments_text" in expected:
        return (call.name, call.arguments) == (expected["name"], expected["arguments_text"])
    return (call.name, json.loads(call.arguments)) == (expected["name"], expected["arguments"])


def _tools_of(case: dict[str, Any], data: dict[str, Any]) -> list[dict[str, Any]]:
    return data["tool_sets"][case["tools"]] if case.get("tools") else []


def test_tool_calls(formats_dir: Path) -> None:
    """Text and calls of every complete case; every other raises nothing and loses nothing."""
    data = _data(formats_dir, "tool_calls.json")
    rng = random.Random(1)
    num_complete = 0
    for case in data["cases"]:
        options: dict[str, Any] = {
            "tools": named_tools(case["family"]),
            "json_reply": case["id"] in ASKED_AS_JSON,
        }
        if case["family"] == "cohere_command":  # one case has thoughts, which are no text
            options["reasoning"] = named_reasoning("cohere")
        parsed = _parsed(case, rng, descriptions=_tools_of(case, data), **options)
        if case.get("truncated") or case.get("malformed_or_truncated"):
            assert parsed.text.strip() or parsed.calls, case["id"]
            continue
        num_complete += 1
        assert parsed.text.strip() == case["normal_text"].strip(), case["id"]
        assert len(parsed.calls) == len(case["calls"]), case["id"]
        assert all(map(_same, parsed.calls, case["calls"])), case["id"]
    assert num_complete == 856


def test_malformed_calls_stay_text(formats_dir: Path) -> None:
    """Arguments that are no JSON: the text is kept as it is. An unknown tool is a call."""
    data = _data(formats_dir, "tool_calls.json")
    cases = [case for case in data["cases"] if case.get("policy")]
    for case in cases:
        parsed = parse_pieces(
            [case["raw"]],
            tools=named_tools(case["family"]),
            descriptions=_tools_of(case, data),
        )
        if case["id"].endswith("unknown_tool"):
            assert parsed.text.strip() == "", case["id"]
            assert [(c.name, json.loads(c.arguments)) for c in parsed.calls] == [
                ("no_such_tool", {"x": 1})
            ], case["id"]
        else:
            assert (parsed.text, parsed.calls) == (case["raw"], []), case["id"]
    assert len(cases) == 54


def test_truncated_calls(formats_dir: Path) -> None:
    """Calls that were complete are there, and of the last one what was written."""
    data = _data(formats_dir, "tool_calls.json")
    cases = [c for c in data["cases"] if c.get("truncated") and c["origin"] == "composed"]
    for case in cases:
        parsed = parse_pieces(
            [case["raw"]],
            tools=named_tools(case["family"]),
            descriptions=_tools_of(case, data),
        )
        num = len(case["calls"])
        assert all(map(_same, parsed.calls, case["calls"])), case["id"]
        partial = case.get("partial_call")
        if partial is None:
            assert not parsed.calls[num:], case["id"]
            continue
        (last,) = parsed.calls[num:]
        assert last.name == partial["name"], case["id"]
        assert last.arguments.endswith(partial["value_so_far"]), case["id"]
    assert len(cases) == 103


def test_reasoning(formats_dir: Path) -> None:
    """Thoughts, answer and calls of every case, truncated ones included."""
    data = _data(formats_dir, "reasoning.json")
    rng = random.Random(2)
    for case in data["cases"]:
        family = case["family"]
        options: dict[str, Any] = {
            "reasoning": None if family == "identity" else named_reasoning(family),
            "in_reasoning": case["starts_in_reasoning"] and case["id"] not in NOT_PROMPTED,
            "json_reply": case["id"] in ASKED_AS_JSON,
        }
        if case.get("tool_family"):
            options["tools"] = named_tools(case["tool_family"])
        parsed = _parsed(case, rng, descriptions=_tools_of(case, data), **options)
        if case.get("truncated") and case["calls"]:
            assert parsed.reasoning.strip() == case["reasoning"].strip(), case["id"]
            assert case["calls"][0]["name"] in parsed.text, case["id"]
            continue
        assert parsed.text.strip() == case["content"].strip(), case["id"]
        assert parsed.reasoning.strip() == case["reasoning"].strip(), case["id"]
        assert len(parsed.calls) == len(case["calls"]), case["id"]
        assert all(map(_same, parsed.calls, case["calls"])), case["id"]
    assert len(data["cases"]) == 563


DETECTED = {
    "Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "Qwen-Qwen3-0.6B": ("hermes", "qwen3"),
    "Qwen-QwQ-32B": ("hermes", "qwen3"),
    "Qwen3-Coder": ("qwen3_coder", None),
    "Qwen3.5-4B": ("qwen3_coder", "qwen3"),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "meta-llama-Llama-3.1-8B-Instruct": ("llama3", None),
    "meta-llama-Llama-3.2-3B-Instruct": ("llama3", None),
    "mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "Mistral-Small-3.2-24B-Instruct-2506": ("mistral", None),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("mistral", "mistral"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseekv3", "deepseek-v3"),
    "deepseek-ai-DeepSeek-V3.1": ("deepseekv31", "deepseek-v3"),
    "deepseek-ai-DeepSeek-V3.2": ("deepseekv32", "deepseek-v3"),
    "deepseek-ai-DeepSeek-V4": ("deepseekv4", "deepseek-v4"),
    "Kimi-K2-Instruct": ("kimi_k2", None),
    "moonshotai-Kimi-K2": ("kimi_k2", None),
    "Kimi-K2-Thinking": ("kimi_k2", "kimi_k2"),
    "Kimi-K3": ("kimi_k3", "kimi_k3"),
    "GLM-4.6": ("glm45", "glm45"),
    "GLM-4.7-Flash": ("glm45", "glm45"),
    "openai-gpt-oss-120b": ("gpt-oss", "gpt-oss"),
    "google-gemma-2-2b-it": (None, None),
    "google-gemma-4-31B-it": ("gemma4", "gemma4"),
    "MiniMax-M2": ("minimax-m2", "minimax"),
    "MiniMax-M3": ("minimax-m3", "minimax-m3"),
    "NVIDIA-Nemotron-Nano-v2": ("nemotron", "nemotron_3"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("qwen3_coder", "qwen3"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("cohere", "cohere"),
    "Cohere2MoE": ("cohere", "cohere"),
    "ibm-granite-granite-3.3-2B-Instruct": ("granite", "glm45"),
    "ibm-granite-granite-4.0": ("hermes", None),
    "HuggingFaceTB-SmolLM3-3B": (None, "glm45"),
    "microsoft-Phi-3.5-mini-instruct": (None, None),
    "tencent-Hy3": ("hunyuan_opensource", "hunyuan-opensource"),
    "LFM2-8B-A1B": ("lfm2", None),
    "ByteDance-Seed-OSS": ("seed_oss", "seed_oss"),
    "StepFun3.5-Flash": ("qwen3_coder", "qwen3"),
    "tool_chat_template_phi4_mini": ("phi4_mini", None),
    "tool_chat_template_llama4_pythonic": ("pythonic", None),
    "tool_chat_template_internlm2_tool": ("internlm", None),
    "tool_chat_template_functiongemma": ("functiongemma", None),
    "tool_chat_template_gemma3_pythonic": ("pythonic", None),
    "tool_chat_template_deepseekv3": ("deepseekv3", None),
    "tool_chat_template_mistral_parallel": ("mistral", None),
    "tool_chat_template_granite": ("granite", None),
}


@pytest.mark.parametrize("name", DETECTED)
def test_a_template_tells_its_formats(formats_dir: Path, name: str) -> None:
    template = (formats_dir / "chat_templates" / f"{name}.jinja").read_text()
    tools, reasoning = detected_tools(template), detected_reasoning(template)
    assert (tools and tools.name, reasoning and reasoning.name) == DETECTED[name]


def test_every_template_is_looked_at(formats_dir: Path) -> None:
    files = {path.stem for path in (formats_dir / "chat_templates").glob("*.jinja")}
    assert files == set(DETECTED)


def test_calls_that_a_template_renders_are_found_in_its_format(formats_dir: Path) -> None:
    """Composed cases that a template renders alike are parsed by what that template tells."""
    data = _data(formats_dir, "tool_calls.json")
    checked = 0
    for case in data["cases"]:
        if not case.get("checked_by_template") or case.get("truncated") or not case["calls"]:
            continue
        template = formats_dir / "chat_templates" / case["checked_by_template"]
        if not template.is_file():
            continue
        source = template.read_text()
        parsed = parse_pieces(
            [case["raw"]],
            tools=detected_tools(source),
            reasoning=detected_reasoning(source),
            descriptions=_tools_of(case, data),
            in_reasoning=False,
        )
        assert all(map(_same, parsed.calls, case["calls"])), (case["id"], template.name)
        assert len(parsed.calls) == len(case["calls"]), (case["id"], template.name)
        checked += 1
    assert checked > 100
