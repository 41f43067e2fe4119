"""Operations that a platform can replace with faster ones, by name, each with a slow and simple reference.

Models and the engine call these through an :class:`Ops` object and never check the device. A platform replaces some of
them (:meth:`dovetail.nn.Platform.operations`); the others run the reference.

Letters: T tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api.errors import PluginError
from dovetail.api.routing import check_routing


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (Zhang and Sennrich, 2019) in float32: x ``[..., C]``, weight ``[C]`` → ``[..., C]``
    in x's dtype.

    The weight is applied in its own dtype: one in float32 to what was not rounded yet, one in x's dtype to the numbers
    rounded to it. Models are trained with either.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (weight * normed.to(weight.dtype)).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual + x``, normalised, and the sum itself, which is the next residual. Neither input is changed."""
    total = residual + x
    return rms_norm(total, weight, eps), total


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer normalisation (Ba et al., 2016) in float32: x ``[..., C]``, weight and bias ``[C]`` or None → ``[..., C]``
    in x's dtype. Weight and bias are applied before the result is rounded.
    """
    wide = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    if weight is not None:
        wide = wide * weight
    return (wide if bias is None else wide + bias).to(x.dtype)


def add_layer_norm(
    x: Tensor, residual: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """``residual + x``, normalised, and the sum itself. Neither input is changed."""
    total = residual + x
    return layer_norm(total, weight, bias, eps), total


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary position embedding (Su et al., 2021) on the first ``2 * R`` channels of each head.

    Args:
        x: ``[T, H, D]``.
        cos, sin: ``[T, R]``, ``2 * R <= D``; taken in x's dtype.
        interleaved: channels ``2i`` and ``2i + 1`` are rotated together; otherwise ``i`` and ``i + R``.

    Returns:
        ``[T, H, D]`` in x's dtype; channels past ``2 * R`` are unchanged.
    """
    rotated = 2 * cos.shape[-1]
    head, tail = x[..., :rotated], x[..., rotated:]
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)  # [T, 1, R]
    if interleaved:
        a, b = head[..., 0::2], head[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = head.chunk(2, -1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((out, tail), -1) if tail.shape[-1] else out


def rope_angles(positions: Tensor, inverse: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of positions (int64 ``[T]``) times inverse frequencies (float32 ``[R]``), computed in float32, times ``factor``: ``[T, R]``
    each, rounded once.
    """
    angles = positions[:, None].float() * inverse
    cos, sin = angles.cos(), angles.sin()
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    return cos.to(dtype), sin.to(dtype)


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)`` (Elfwing et al., 2017), elementwise."""
    return F.silu(x)


def gelu(x: Tensor) -> Tensor:
    """``x`` times the normal distribution's cumulative function (Hendrycks and Gimpel, 2016), elementwise."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """:func:`gelu` with its approximation by a hyperbolic tangent, elementwise."""
    return F.gelu(x, approximate="tanh")


def gelu_quick(x: Tensor) -> Tensor:
    """:func:`gelu` approximated as ``x * sigmoid(1.702 * x)``, elementwise."""
    return x * torch.sigmoid(1.702 * x)


def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``, elementwise."""
    return F.relu(x)


def relu2(x: Tensor) -> Tensor:
    """``max(x, 0) ** 2`` (So et al., 2021), elementwise."""
    return F.relu(x).square()


def _gated(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def gated(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return activation(gate) * up

    gated.__name__ = f"{activation.__name__}_mul"
    gated.__doc__ = (
        f"``{activation.__name__}(gate) * up`` with gate and up side by side: ``[..., 2 * C]`` → ``[..., C]``."
    )
    return gated


ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (silu, gelu, gelu_tanh, gelu_quick, relu, relu2)
"""Each is an operation under its name, and one with the product of gate and up under ``<name>_mul``."""


def softcap(x: Tensor, cap: float) -> Tensor:
    """``cap * tanh(x / cap)``: keeps logits or scores within ``-cap`` and ``cap``. In x's dtype."""
    return torch.tanh(x / cap) * cap


TINY = 1e-20
"""Added to sums that are divided by. It changes none but 0, which sigmoids of large negative numbers have."""


def route(
    logits: Tensor,
    top_k: int,
    scoring: str = "softmax",
    renormalize: bool = True,
    bias: Tensor | None = None,
    groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Choose each token's experts.

    Args:
        logits: ``[T, E]``, of the router.
        top_k: experts of a token, A.
        scoring: ``softmax`` over all experts, or ``sigmoid`` of each.
        renormalize: whether a token's weights are divided by their sum.
        bias: float32 ``[E]``, added for the choice and not for the weights (arXiv:2412.19437).
        groups, top_groups: the experts are in so many groups of neighbours, and a token's come from the best
            ``top_groups``; a group is as good as its two best experts together with ``bias``, and as its best one without
            (arXiv:2412.19437 and 2405.04434).
        scale: on the weights.

    Returns:
        ids int64 ``[T, A]``, each at most once, in falling order of the scores with ``bias``; and weights float32
            ``[T, A]``. Which of several experts with the same score is chosen is the platform's affair, but does not depend on other
            tokens.

    Raises:
        ValueError: so many experts cannot be chosen (see :func:`dovetail.api.check_routing`), or the scoring is another.
    """
    if scoring not in ("softmax", "sigmoid"):
        raise ValueError(f"scoring is {scoring!r}, wanted softmax or sigmoid")
    check_routing(logits.shape[-1], top_k, groups, top_groups, bias=bias is not None)
    wide = logits.float()
    scores = wide.softmax(-1) if scoring == "softmax" else wide.sigmoid()
    choice = scores if bias is None else scores + bias
    if groups > 1:
        by_group = choice.unflatten(-1, (groups, -1))  # [T, G, E / G]
        best = by_group.amax(-1) if bias is None else by_group.topk(2, -1).values.sum(-1)  # [T, G]
        kept = torch.zeros_like(best, dtype=torch.bool).scatter_(-1, best.topk(top_groups, -1).indices, True)
        choice = by_group.masked_fill(~kept[..., None], float("-inf")).flatten(-2)
    ids = choice.topk(top_k, -1).indices
    weights = scores.gather(-1, ids)
    if renormalize:
        weights = weights / (weights.sum(-1, keepdim=True) + TINY)
    return ids, weights * scale


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x ``[..., K]``, weight ``[N, K]`` of the same dtype → ``[..., N]``. Every kernel that multiplies dense numbers calls this."""
    return F.linear(x, weight)


def embed(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of a table: ids int64 ``[T]``, table ``[V, C]`` → ``[T, C]``."""
    return F.embedding(ids, table)


def likeliest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The place of each line's greatest score, of equal ones the first: contiguous scores ``[L, V]`` → int64 ``[L]``; and bool ``[L]``, whether
    there is NaN in the line, whose place may then be any.
    """
    places = scores.argmax(-1)
    return places, scores.gather(1, places[:, None])[:, 0].isnan()


def decode_inputs(
    rows: Tensor, lengths: Tensor, newest: Tensor, table: Tensor, block_size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What a decode step reads.

    Args:
        rows: int64 ``[R]``, of each request, in the next two.
        lengths: int64 ``[R]``, tokens of each request with the step's own.
        newest: int64 ``[S]``, the token to compute.
        table: int32 ``[S, B]``, blocks; the rows may be apart.

    Returns:
        tokens and positions int64 ``[R]``, lengths int32 ``[R]``, block tables int32 ``[R, B]``, and the cache's slots int64 ``[R]`` of the tokens.
    """
    positions = lengths - 1
    tables = table[rows]
    blocks = tables.gather(1, (positions // block_size)[:, None])[:, 0]
    slots = torch.add(positions % block_size, blocks, alpha=block_size)
    return newest[rows], positions, lengths.int(), tables, slots


def linear_by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Each head's own product: x ``[T, H, K]``, weight ``[H, N, K]`` of the same dtype, any strides → ``[T, H, N]``."""
    return torch.einsum("thk,hnk->thn", x, weight)


def lay_out(weight: Tensor) -> Tensor:
    """The weight ``[N, K]`` with the memory layout (strides) that ``linear`` is fastest with. Values and shape are
    unchanged.
    """
    return weight


_OPERATIONS: tuple[Callable[..., Any], ...] = (
    rms_norm,
    add_rms_norm,
    layer_norm,
    add_layer_norm,
    rope,
    rope_angles,
    softcap,
    route,
    linear,
    linear_by_head,
    embed,
    decode_inputs,
    likeliest,
    lay_out,
    *ACTIVATIONS,
    *map(_gated, ACTIVATIONS),
)
REFERENCES: dict[str, Callable[..., Any]] = {operation.__name__: operation for operation in _OPERATIONS}


class Ops:
    """The operations of one platform. The class itself has the references, so ``help(Ops.route)`` says what ``route``
    takes and gives, whatever a platform replaces it with.

    Args:
        claimed: name → implementation with the reference's signature. Names with a dot are of operations that plugins
            add (:meth:`find`); a platform may claim one whose plugin is not installed.

    Raises:
        PluginError: a claimed name is not an operation.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    layer_norm: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]
    add_layer_norm: Callable[[Tensor, Tensor, Tensor | None, Tensor | None, float], tuple[Tensor, Tensor]]
    rope: Callable[..., Tensor]
    rope_angles: Callable[[Tensor, Tensor, float, torch.dtype], tuple[Tensor, Tensor]]
    softcap: Callable[[Tensor, float], Tensor]
    route: Callable[..., tuple[Tensor, Tensor]]
    linear: Callable[[Tensor, Tensor], Tensor]
    linear_by_head: Callable[[Tensor, Tensor], Tensor]
    embed: Callable[[Tensor, Tensor], Tensor]
    decode_inputs: Callable[[Tensor, Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    likeliest: Callable[[Tensor], tuple[Tensor, Tensor]]
    lay_out: Callable[[Tensor], Tensor]

    def __init__(self, claimed: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._claimed = dict(claimed or {})
        if unknown := sorted(name for name in self._claimed if name not in REFERENCES and "." not in name):
            raise PluginError(
                f"the platform claims the operations {', '.join(unknown)}, which do not exist",
                f"known: {', '.join(REFERENCES)}; those of plugins are named package.operation",
            )
        for name in REFERENCES.keys() & self._claimed.keys():
            setattr(self, name, self._claimed[name])

    @property
    def claimed(self) -> Mapping[str, Callable[..., Any]]:
        """What the platform replaces: name → implementation."""
        return self._claimed

    def find(self, name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
        """The platform's implementation of an operation that a plugin adds, or else the plugin's own.

        Args:
            name: ``package.operation``.
            reference: slow and simple; its signature is the operation's.

        Raises:
            PluginError: the name has no package.
        """
        if "." not in name:
            raise PluginError(
                f"a model asks for the operation {name!r}", "those of plugins are named package.operation"
            )
        return self._claimed.get(name, reference)

    def activation(self, name: str, *, gated: bool = False) -> Callable[[Tensor], Tensor]:
        """An activation by the name of its operation; ``gated`` for its product with what is beside it.

        Raises:
            PluginError: there is no such activation.
        """
        known = [activation.__name__ for activation in ACTIVATIONS]
        if name not in known:
            raise PluginError(
                f"a model asks for the activation {name!r}, which does not exist", f"known: {', '.join(known)}"
            )
        found: Callable[[Tensor], Tensor] = getattr(self, f"{name}_mul" if gated else name)
        return found


for _name, _reference in REFERENCES.items():
    setattr(Ops, _name, staticmethod(_reference))
