"""What a request says of the model's thinking, as variables of its chat template."""

from collections.abc import Mapping
from typing import Any

from tupelo.errors import InvalidRequest

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_SWITCHES = ("enable_thinking", "thinking")


def thinking_variables(
    effort: str | None, given: Mapping[str, Any] | None, template: str, *, thinks: bool
) -> dict[str, Any]:
    """``chat_template_kwargs`` with what ``reasoning_effort`` means to this template.

    A template takes the effort itself, or only whether to think. What the client gives itself wins.
    ``none`` asks for nothing of a model that does not think.

    Raises:
        InvalidRequest: no such effort, or the template knows neither.
    """
    given = dict(given or {})
    if effort is None:
        return given
    if effort not in EFFORTS:
        raise InvalidRequest(
            f"reasoning_effort: got {effort!r:.60}; allowed: {', '.join(EFFORTS)}",
            param="reasoning_effort",
        )
    found: dict[str, Any] = {name: effort != "none" for name in _SWITCHES if name in template}
    if "reasoning_effort" in template:
        found["reasoning_effort"] = effort
    if not found and (thinks or effort != "none"):
        raise InvalidRequest(
            "reasoning_effort has no effect: this model's chat template knows no effort",
            param="reasoning_effort",
            code="unsupported_parameter",
        )
    return {**found, **given}
