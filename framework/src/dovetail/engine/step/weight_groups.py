"""Counts a model's weights by the tensors that they are made of: which format reads them, and which kernels may multiply
them. The model is built, and no weight is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor
from dovetail.engine.step.runner import ModelRunner
from dovetail.nn.loading import Progress
from dovetail.nn.placing import is_tied


class WeightGroup(NamedTuple):
    """Weights that are stored alike, in layers of one kind.

    Attributes:
        format: its name.
        type: stored type of the tensor that the format was chosen for.
        tensors: component and stored type of each tensor of such a weight.
    """

    kind: LayerKind
    format: str
    type: str
    tensors: tuple[tuple[str, str], ...]


class WeightCounter(ModelRunner):
    """A model that is built without its weights.

    Attributes:
        groups_of_weights: how many weights there are of each group. Those that are stored together, such as a stack of
            experts, count as one.
        plain: number of tensors that are no weights: norms, biases.
        tied: names of heads that multiply with the table of an embedding.

    Raises:
        CheckpointError: tensors are missing, unexpected or misshapen.
        ResolutionError: no format of the Plan reads one of the weights.
    """

    def read_weights(self, tensors: Iterable[LazyTensor], progress: Progress | None) -> None:
        places = self.reader.places
        places.sort(tensors)
        self.groups_of_weights: Counter[WeightGroup] = Counter()
        for name in places.weights:
            fit = places.fitting(name)
            made_of = tuple((suffix, lazy.type) for suffix, lazy in fit.tensors.items())
            choice = fit.choice
            self.groups_of_weights[WeightGroup(choice.kind, choice.format_name, choice.stored_type, made_of)] += 1
        self.plain = len(places.plain)
        self.tied = [
            name
            for name, layer in self.ctx.layers.items()
            if is_tied(layer) and places.source(name).name not in places.weights
        ]
        places.clear()

    def describe(self) -> list[str]:
        """Lines about each group, the largest first."""
        total = sum(self.groups_of_weights.values())
        lines = [
            "",
            f"weights        {total} by the tensors that each is made of; {self.plain} other tensors are norms, biases and the like",
        ]
        for group, count in self.groups_of_weights.most_common():
            made_of = ", ".join(f"{suffix or 'one tensor'} ({type_})" for suffix, type_ in group.tensors)
            lines += ["", f"{count} {group.kind}, each of {made_of}", *self._describe_parts(group)]
        for name in self.tied:
            lines += ["", f"{name} has no weight of its own: it multiplies with the table of the embedding"]
        return lines

    def _describe_parts(self, group: WeightGroup) -> list[str]:
        (planned,) = (
            weight
            for weight in self.plan.weights
            if (weight.kind, weight.format.part.name, weight.type) == (group.kind, group.format, group.type)
        )
        part = planned.format.part
        kernels = ", else ".join(f"{k.name} ({k.distribution} {k.version})" for k in planned.kernels)
        return [f"  format       {part.name} ({part.distribution} {part.version})", f"  kernel       {kernels}"]
