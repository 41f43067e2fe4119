"""Runs a causal language model of transformers by its own code, on the engine's attention, linear layers and experts.

The model is built without memory (on torch's meta device), and run once so to see which attention each of its layers asks
for. Then its linear layers, embedding, head and experts are replaced by those of the context, so that they are loaded,
quantized, cut and multiplied as those of any other model; every other parameter is a plain tensor.

Letters: T tokens, C channels, H query heads, K key-value heads, D head dimension.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping

from dovetail.api import ConfigError, UsageError
from dovetail.nn import Attention, AttentionSpec, CausalLM, Context, Embedding, Linear, Step
from dovetail_models_transformers.config import TransformersConfig
from dovetail_models_transformers.experts import StackedExperts, expert_names, gated, is_stack, read_expert_name

NAME = "dovetail"
WITHOUT_EFFECT = frozenset(
    {
        "cache",
        "cache_position",
        "is_causal",
        "logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""Arguments of attention functions that change nothing here: they are about caches, outputs, or what was done before."""
HINT = "ask for a package of this architecture, or write one: dovetail plugins new model NAME"


class Call:
    """The attention function that transformers calls, while a model is looked at and while it runs.

    Attributes:
        step: the step that is computed; None while the model is looked at.
        layers: the module that calls → the engine's layer.
        specs: the module that calls → what it asks for.
        sinks: the module that calls → its sinks, of those that have some.
        top_k: a stack of experts → the experts of a token.
    """

    def __init__(self) -> None:
        self.step: Step | None = None
        self.layers: dict[nn.Module, Attention] = {}
        self.specs: dict[nn.Module, AttentionSpec] = {}
        self.sinks: dict[nn.Module, Tensor] = {}
        self.top_k: dict[nn.Module, int] = {}

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **more: Any,
    ) -> tuple[Tensor, None]:
        """query ``[1, H, T, D]``, key and value ``[1, K, T, D]`` → ``[1, T, H, D]``."""
        if self.step is None:
            return self._look(
                module, query, key, value, attention_mask, scaling, sliding_window, softcap, s_aux, more
            ), None
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return self.layers[module](q.contiguous(), k.contiguous(), v.contiguous(), self.step)[None], None

    def _look(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
        more: dict[str, Any],
    ) -> Tensor:
        who = type(module).__name__
        if module in self.specs:
            raise ConfigError(f"{who} attends twice in one step, which needs two caches", HINT)
        if mask is not None:
            raise ConfigError(f"{who} makes a mask of its own, which paged attention does not take", HINT)
        if unknown := sorted(name for name, given in more.items() if given is not None and name not in WITHOUT_EFFECT):
            raise ConfigError(
                f"{who} gives its attention {', '.join(unknown)}, which paged attention does not take", HINT
            )
        head_dim, values = query.shape[-1], value.shape[-1]
        self.specs[module] = AttentionSpec(
            query.shape[1],
            key.shape[1],
            head_dim,
            head_dim**-0.5 if scaling is None else float(scaling),
            window=window,
            softcap=softcap,
            sinks=sinks is not None,
            value_dim=None if values == head_dim else values,
        )
        if sinks is not None:
            self.sinks[module] = sinks
        return query.new_empty(1, query.shape[2], query.shape[1], values)

    def look_at_experts(self, module: nn.Module, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        """In place of experts while a model is looked at; ids ``[T, A]``."""
        self.top_k[module] = ids.shape[-1]
        return x


class Flat(nn.Module):
    """A layer of the engine, which takes ``[T, K]``, for code that gives ``[1, T, K]`` or ``[T, K]``."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class Scaled(nn.Module):
    """An embedding whose vectors are multiplied."""

    def __init__(self, layer: Embedding, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.layer(tokens)
        return out * self.scale


class Output:
    """What a model without its head returns: hidden states, and None for all else."""

    def __init__(self, hidden: Tensor | None) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


class Given(nn.Module):
    """In place of a model without its head: returns hidden states that were computed before."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> Output:
        return Output(self.hidden)


class TransformersForCausalLM(CausalLM):
    """A decoder that transformers computes.

    Raises:
        ConfigError: it does not take an attention function, or asks it for something that the engine does not have.
        UsageError: there are several devices.
    """

    def __init__(self, c: TransformersConfig, ctx: Context) -> None:
        super().__init__()
        if ctx.parallel.size > 1:
            raise UsageError("the code of transformers is not cut for several devices", "use one device")
        self.call = Call()
        AttentionInterface.register(NAME, self.call)
        model = _build(c, ctx.dtype)
        self.transforms = get_model_conversion_mapping(model)
        self.expected = frozenset(model.state_dict())
        self.left_out = tuple(map(re.compile, model._keys_to_ignore_on_load_unexpected or ()))
        self.stacks = {name for name, module in model.named_modules() if is_stack(module)}
        _look_at(model, self.call)
        self._replace(model, c, ctx)
        _compute_buffers(model, ctx.device)
        for (
            module
        ) in model.modules():  # what has no numbers cannot be moved to a device, and is assigned when it is read
            for held in (module._parameters, module._buffers):
                held.update(dict.fromkeys(name for name, value in held.items() if value is not None and value.is_meta))
        self.trunk = model.get_decoder()
        self.given = Given()
        model.set_submodule(next(name for name, module in model.named_modules() if module is self.trunk), self.given)
        self.whole = model

    def _replace(self, model: Any, c: TransformersConfig, ctx: Context) -> None:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        own: Any = None
        for name, module in list(model.named_modules()):
            if name in self.stacks:
                names, (count, inner, channels) = expert_names(name, module), _stack_shape(module)
                # Some bound their gate.
                activation = getattr(module, "_apply_gate", None) or partial(gated, activation=module.act_fn)
                layer = ctx.experts(names, channels, inner, self.call.top_k[module], activation=activation)
                ctx.stored_together(f"{name}.gate_up_proj", [[gate, up] for gate, up, _ in names])
                ctx.stored_together(f"{name}.down_proj", [[down] for _, _, down in names])
                model.set_submodule(name, StackedExperts(layer, count))
            elif module is embedding and (type(module) is nn.Embedding or hasattr(module, "embed_scale")):
                own = ctx.embedding(name, module.num_embeddings, module.embedding_dim)
                scale = getattr(module, "scalar_embed_scale", None)
                model.set_submodule(
                    name, own if scale is None else Scaled(own, float(torch.tensor(scale, dtype=ctx.dtype)))
                )
            elif module is head:
                tied = own if c.original.get("tie_word_embeddings", model.config.tie_word_embeddings) else None
                bias = module.bias is not None
                self.head = ctx.head(name, module.in_features, module.out_features, tied=tied, bias=bias)
                model.set_submodule(name, Flat(self.head))
            elif type(module) is nn.Linear:
                linear = ctx.linear(name, module.in_features, module.out_features, bias=module.bias is not None)
                model.set_submodule(name, Flat(linear))
        tensors = {
            **dict(model.named_parameters()),
            **{n: b for n, b in model.named_buffers() if n in model.state_dict()},
        }
        for name, value in tensors.items():
            dtype = None if value.dtype == ctx.dtype else value.dtype
            ctx.vector(
                name,
                tuple(value.shape),
                partial(_assign, model.get_submodule(name.rpartition(".")[0]), name),
                dtype=dtype,
            )
        for module, spec in self.call.specs.items():
            sinks = self.call.sinks.get(module)
            name = None if sinks is None else next(n for n, value in tensors.items() if value is sinks)
            if name is not None:
                del ctx.vectors[name]
            self.call.layers[module] = ctx.attention(spec, sinks=name)

    def rename(self, name: str) -> str | None:
        """Names of checkpoints become those of transformers' modules, by its own table."""
        if expert := read_expert_name(name, self.transforms, self.stacks):
            return expert
        for transform in self.transforms:
            name, _ = transform.rename_source_key(name)
        unknown = name not in self.expected and any(pattern.search(name) for pattern in self.left_out)
        return None if unknown else name

    def forward(self, step: Step) -> Tensor:
        self.call.step = step
        AttentionInterface.register(NAME, self.call)
        out = self.trunk(
            input_ids=step.tokens[None], position_ids=step.positions[None], attention_mask=None, use_cache=False
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """By the code of the whole model, which may bound or scale them."""
        self.given.hidden = hidden[None]
        logits: Tensor = self.whole(input_ids=None, use_cache=False).logits[0]
        self.given.hidden = None
        return logits


def _build(c: TransformersConfig, dtype: torch.dtype) -> Any:
    values = {
        key: value for key, value in c.original.items() if key not in ("dtype", "torch_dtype", "quantization_config")
    }
    try:
        config = AutoConfig.for_model(**values)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME, dtype=dtype)
    except ConfigError:
        raise
    except Exception as error:  # whatever a configuration class or a model says of values that it does not support
        raise ConfigError(f"transformers refuses this configuration ({type(error).__name__}: {error})", HINT) from error
    if not model._supports_attention_backend:
        raise ConfigError(f"{type(model).__name__} of transformers does not take an attention function", HINT)
    return model.eval()


def _look_at(model: Any, call: Call) -> None:
    tokens = torch.zeros(1, 3, dtype=torch.long, device="meta")
    positions = torch.zeros(1, 3, dtype=torch.long, device="meta")
    stacks = [module for module in model.modules() if is_stack(module)]
    for module in stacks:  # their code reads on the host which experts were chosen
        module.forward = partial(call.look_at_experts, module)
    try:
        with torch.no_grad():
            model(input_ids=tokens, position_ids=positions, use_cache=False)
    except ConfigError:
        raise
    except Exception as error:  # code that cannot run without numbers
        raise ConfigError(
            f"{type(model).__name__} of transformers cannot be run without numbers ({type(error).__name__}: {error})",
            HINT,
        ) from error
    finally:
        for module in stacks:
            del module.forward
    if not call.specs:
        raise ConfigError(f"{type(model).__name__} of transformers does not call its attention function", HINT)


def _compute_buffers(model: Any, device: torch.device) -> None:
    """Give buffers that no checkpoint has, such as frequencies, their numbers again."""
    for module in model.modules():
        empty = [name for name in module._non_persistent_buffers_set if module._buffers.get(name) is not None]
        if not empty:
            continue
        for name in empty:
            module._buffers[name] = (
                torch.full_like(module._buffers[name], float("nan"), device=device)
                if (module._buffers[name].is_floating_point())
                else torch.zeros_like(module._buffers[name], device=device)
            )
        with torch.no_grad():
            model._init_weights(module)
        for name in empty:
            if module._buffers[name].is_floating_point() and not module._buffers[name].isfinite().all():
                raise ConfigError(
                    f"{type(module).__name__} of transformers does not compute its buffer {name} again", HINT
                )


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    last = name.rpartition(".")[2]
    if last in module._buffers:
        module._buffers[last] = value
    else:
        module._parameters[last] = nn.Parameter(value, requires_grad=False)


def _stack_shape(module: Any) -> tuple[int, int, int]:
    count, channels, inner = module.down_proj.shape
    return count, inner, channels
