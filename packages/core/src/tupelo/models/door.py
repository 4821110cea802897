"""Models without a family here, through transformers' own modules and our attention.

The modules are built from the configuration, their weights are loaded like any model's, and
transformers' attention interface is answered by the backend's attention over paged K/V. What the
layers ask of attention is found out by running the modules once on the meta device, so that it is
known before anything is allocated. A model whose layers do not ask through the interface, or that
ask for something that the contract does not have, is refused by name.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AttentionInterface, PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_outputs import BaseModelOutputWithPast

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import ModelConfig
from tupelo.errors import ConfigError, UnsupportedModel
from tupelo.layers import Parameter, whole
from tupelo.models.model import BuildOptions, Model
from tupelo.ops import OpCall, OpTable
from tupelo.specs import AttentionSpec, KVSpec

INTERFACE: Final = "tupelo_paged"
"""Our name among transformers' attention implementations."""

_STEP: Final = "tupelo_step"
"""The attribute of an attention module that leads to its model's running step."""

logger = logging.getLogger(__name__)

_HARMLESS: Final = frozenset({
    "dropout", "position_ids", "use_cache", "output_attentions", "return_dict", "is_causal",
    "cache_position", "output_hidden_states",
})  # fmt: skip
_LENGTH_DEPENDENT: Final = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one layer asks of attention; ``window`` and ``soft_cap`` as in ``AttentionSpec``."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None
    soft_cap: float | None


@dataclass(slots=True)
class _Step:
    """What the attention layers of one model reach: the step that is running, or a probe's notes.

    Attributes:
        kinds: layer, to index into the model's specs.
    """

    asked: dict[int, _Asked] = field(default_factory=dict)
    kinds: dict[int, int] = field(default_factory=dict)
    attention: AttentionBackend | None = None
    kv: KVPool | None = None
    plan: Plan = None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention interface: (1, heads, T, head_dim) each, to (1, T, heads, head_dim).

    The mask is not read: rows, their lengths and windows are in the plan.
    """
    step: _Step = getattr(module, _STEP)
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if step.attention is None:
        if layer in step.asked:
            raise UnsupportedModel(f"{type(module).__name__} runs twice in one pass")
        step.asked[layer] = _asked(module, q, k, v, scaling, options)
        return q[None], None
    assert step.kv is not None
    out = step.attention.forward(q, k, v, step.kinds[layer], layer, step.kv, step.plan)
    return out[None], None


AttentionInterface.register(INTERFACE, _attend)


def _asked(
    module: nn.Module,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scaling: float | None,
    options: dict[str, Any],
) -> _Asked:
    name = type(module).__name__
    window, cap = options.pop("sliding_window", None), options.pop("softcap", None)
    strange = sorted(n for n, o in options.items() if o is not None and n not in _HARMLESS)
    if strange:
        raise UnsupportedModel(f"{name} asks attention for {', '.join(strange)}")
    if k.shape != v.shape or k.shape[-1] != q.shape[-1]:
        raise UnsupportedModel(f"{name} has values of another width than keys")
    if getattr(module, "is_causal", True) is False:
        raise UnsupportedModel(f"{name} does not attend causally")
    head_dim = q.shape[-1]
    scale = head_dim**-0.5 if scaling is None else float(scaling)
    return _Asked(q.shape[1], k.shape[1], head_dim, scale, window, cap)


class TransformersModel(Model):
    """A causal model as transformers computes it.

    Raises:
        UnsupportedModel: the installed transformers cannot run it over our attention; says why.
        ConfigError: more than one rank.
    """

    def __init__(self, config: ModelConfig, options: BuildOptions) -> None:
        if options.parallel.world_size > 1:
            raise ConfigError(
                f"{config.architecture} runs through transformers' modules, on one rank only"
            )
        logger.warning(
            "%s has no implementation of its own here: it runs through transformers' modules",
            config.architecture,
        )
        self.config = config
        self.options = options
        hf_config = _hf_config(config)
        self._step = _Step()
        _probe(config, hf_config, self._step)
        layers = [self._step.asked[layer] for layer in range(len(self._step.asked))]
        length = options.max_length or config.max_position_embeddings
        windows = [a.window if a.window and a.window < length else None for a in layers]
        groups = sorted(set(windows), key=lambda w: (w is not None, w or 0))
        kinds = [_spec(a, groups.index(w), w) for a, w in zip(layers, windows, strict=True)]
        self.attention_specs = tuple(dict.fromkeys(kinds))
        self.kv_specs = tuple(
            _kv_spec(kinds, group, window, options.kv_dtype or options.dtype)
            for group, window in enumerate(groups)
        )
        self._step.kinds = {
            layer: self.attention_specs.index(kind) for layer, kind in enumerate(kinds)
        }
        with _parameters_on_meta():
            self._module = _build(config, hf_config, self._step)
        self._parameters = {
            name: whole(_published(self._module, name, parameter), tuple(parameter.shape))
            for name, parameter in self._module.named_parameters()
        }
        self._decoder: nn.Module = self._module.get_decoder()  # type: ignore[no-untyped-call]
        self._decode = self._decoder.forward
        self._given: Tensor | None = None
        self._decoder.forward = self._stand_in

    def parameters(self) -> Iterator[Parameter]:
        yield from self._parameters.values()

    def table_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._module.buffers())

    def shared_head(self) -> OpCall | None:
        return None

    def bind(self, table: OpTable) -> None:
        device = next(iter(self._parameters.values())).data.device
        kind = getattr(torch, self.options.dtype)
        for module in self._module.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
        for name, parameter in self._parameters.items():
            owner, _, last = name.rpartition(".")
            loaded = nn.Parameter(parameter.data.to(kind), requires_grad=False)
            setattr(self._module.get_submodule(owner), last, loaded)
        self._module.tie_weights()

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        step = self._step
        step.attention, step.kv, step.plan = attention, kv, plan
        out = self._decode(
            input_ids=inputs.input_ids[None], position_ids=inputs.positions[None], use_cache=False
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Everything that the class does after its decoder, which hands out ``hidden`` here."""
        self._given = hidden[None]
        try:
            ids = torch.zeros((1, hidden.shape[0]), dtype=torch.int64, device=hidden.device)
            logits: Tensor = self._module(input_ids=ids, use_cache=False).logits[0]
        finally:
            self._given = None
        return logits

    def _stand_in(self, *_: Any, **__: Any) -> BaseModelOutputWithPast:
        """In the place of the decoder: only ``logits`` runs the whole module."""
        assert self._given is not None
        return BaseModelOutputWithPast(last_hidden_state=self._given)


def _hf_config(config: ModelConfig) -> PretrainedConfig:
    try:
        found: PretrainedConfig = CONFIG_MAPPING[config.model_type].from_dict(dict(config.raw))
    except Exception as error:  # whatever the class makes of an untrusted file
        raise UnsupportedModel(
            f"transformers cannot read the configuration of {config.architecture}: {error}"
        ) from error
    rope = getattr(found, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") in _LENGTH_DEPENDENT:
        raise UnsupportedModel(
            f"{config.architecture} with {rope['rope_type']} rope cannot run through transformers' "
            "modules: its frequencies would change while K/V stay in the cache"
        )
    return found


def _build(config: ModelConfig, hf_config: PretrainedConfig, step: _Step) -> PreTrainedModel:
    model_class = getattr(transformers, config.architecture)
    try:
        hf_config._attn_implementation = INTERFACE
        module: PreTrainedModel = model_class(hf_config).eval()
    except Exception as error:  # whatever the class makes of an untrusted file
        raise UnsupportedModel(
            f"transformers cannot build {config.architecture}: {error}"
        ) from error
    for part in module.modules():
        if hasattr(part, "layer_idx"):
            setattr(part, _STEP, step)
    return module


def _probe(config: ModelConfig, hf_config: PretrainedConfig, step: _Step) -> None:
    """Fill ``step.asked`` by one pass on the meta device.

    Raises:
        UnsupportedModel: layers that do not attend through the interface.
    """
    with torch.device("meta"), torch.inference_mode():
        module = _build(config, hf_config, step)
        ids = torch.zeros((1, 2), dtype=torch.int64)
        try:
            decoder: nn.Module = module.get_decoder()  # type: ignore[no-untyped-call]
            decoder(input_ids=ids, position_ids=ids, use_cache=False)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"{config.architecture}: {error}") from error
        except Exception as error:
            raise UnsupportedModel(
                f"{config.architecture} does not run over the attention of another: {error}"
            ) from error
    if sorted(step.asked) != list(range(config.num_layers)):
        raise UnsupportedModel(
            f"{config.architecture} does not attend through transformers' attention interface "
            f"({len(step.asked)} of {config.num_layers} layers do), so it cannot be served"
        )


def _published(module: PreTrainedModel, name: str, parameter: nn.Parameter) -> str:
    """The name of a parameter in saved checkpoints, where it is only renamed there."""
    names = list(revert_weight_conversion(module, {name: parameter}))
    return str(names[0]) if len(names) == 1 else name


def _spec(asked: _Asked, group: int, window: int | None) -> AttentionSpec:
    return AttentionSpec(
        group=group,
        num_heads=asked.num_heads,
        num_kv_heads=asked.num_kv_heads,
        head_dim=asked.head_dim,
        scale=asked.scale,
        window=window,
        soft_cap=asked.soft_cap,
    )


def _kv_spec(kinds: list[AttentionSpec], group: int, window: int | None, dtype: str) -> KVSpec:
    layers = tuple(layer for layer, kind in enumerate(kinds) if kind.group == group)
    shapes = {(kinds[layer].num_kv_heads, kinds[layer].head_dim) for layer in layers}
    if len(shapes) > 1:
        raise UnsupportedModel(f"layers of one window store K/V of different shapes: {shapes}")
    num_kv_heads, head_dim = shapes.pop()
    return KVSpec(
        group=group,
        layers=layers,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        window=window,
    )


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made within get parameters without storage, and real buffers (rotary tables)."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(self, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
