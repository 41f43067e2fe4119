"""For namings of models (:class:`dovetail.api.Naming`): a container's metadata by key, and names by tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from dovetail.api.errors import ConfigError

CONVERT = "convert the model again, or give its config.json with --hf-config-path"
VARIANT = "this variant needs a model plugin of its own"


class Metadata:
    """The metadata of one architecture in a container, by the keys below its name.

    Args:
        container: what users call it, for errors.
        architecture: the container's name of the architecture.
        values: all metadata.
    """

    def __init__(self, container: str, architecture: str, values: Mapping[str, Any]) -> None:
        self.container = container
        self.architecture = architecture
        self._values = values

    def get(self, key: str, default: Any = None) -> Any:
        """A value. For a list with an entry for each layer, the value that all layers share.

        Raises:
            ConfigError: the layers differ.
        """
        value = self._values.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, (list, tuple)):
            return value
        if len(set(value)) == 1:
            return value[0]
        raise self.refuse(key, value, "one value for all layers")

    def require(self, key: str) -> Any:
        """A required value.

        Raises:
            ConfigError: it is not there.
        """
        if (value := self.get(key)) is None:
            raise ConfigError(f"the {self.container} metadata lacks the key {self.architecture}.{key}", CONVERT)
        return value

    def expect(self, key: str, wanted: Any, meaning: str, hint: str = VARIANT) -> None:
        """Require one value; it is the default if the key is missing.

        Raises:
            ConfigError: there is another value.
        """
        value = self.get(key, wanted)
        if value != wanted:
            raise self.refuse(key, value, meaning, hint)

    def refuse(self, key: str, value: Any, wanted: str, hint: str = VARIANT) -> ConfigError:
        """The error for a value that is not supported."""
        return ConfigError(
            f"the {self.container} metadata says {self.architecture}.{key} = {value}, wanted {wanted}", hint
        )


class TableNaming:
    """Tensors' names by tables. A subclass adds ``config``, and is then a :class:`dovetail.api.Naming`.

    Class attributes:
        outer: the container's name of a module outside of the layers → the model's.
        inner: the container's name of a module of a layer → the model's below its layer.
        block: the container's name of the layers, before their number.
        layers: the model's.
        adjacent: each rotary pair of q and k is two adjacent rows in the container; models expect the two halves of a
            head.
        rotated: the model's names of q and k below their layer.
    """

    outer: ClassVar[Mapping[str, str]]
    inner: ClassVar[Mapping[str, str]]
    block: ClassVar[str]
    layers: ClassVar[str] = "model.layers"
    adjacent: ClassVar[bool] = False
    rotated: ClassVar[tuple[str, str]] = ("self_attn.q_proj", "self_attn.k_proj")

    def rename(self, name: str) -> str | None:
        """The model's name; a name that no table has stays as it is, and is refused as unexpected."""
        stem, _, component = name.rpartition(".")
        if stem in self.outer:
            return f"{self.outer[stem]}.{component}"
        match = re.fullmatch(rf"{self.block}\.(\d+)\.([\w.]+)", stem)
        if match and match[2] in self.inner:
            return f"{self.layers}.{match[1]}.{self.inner[match[2]]}.{component}"
        return name

    def row_order(self, name: str, config: Mapping[str, Any]) -> Any | None:
        """The order of the rows of q and k, if the container has rotary pairs adjacent; all others are in the model's
        own order.
        """
        if self.adjacent:
            for part, heads in zip(self.rotated, ("num_attention_heads", "num_key_value_heads"), strict=True):
                if name.endswith((f".{part}.weight", f".{part}.bias")):
                    return rotary_halves(config[heads], config["head_dim"])
        return None


@lru_cache(maxsize=16)
def rotary_halves(heads: int, head_dim: int) -> tuple[int, ...]:
    """The order of rows of q or k for a container that stores each rotary pair as two adjacent rows, and a model that
    expects the two halves of a head: row ``i`` of the model is the stored row ``order[i]``.
    """
    within = (*range(0, head_dim, 2), *range(1, head_dim, 2))
    return tuple(head * head_dim + row for head in range(heads) for row in within)
