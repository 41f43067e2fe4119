"""What the namings of model packages share of Mistral's own files: the keys of ``params.json`` and the tensors' names.

Sources: the arguments and modules of the package ``mistral-inference``, and how vLLM reads ``params.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dovetail.api.errors import ConfigError
from dovetail.api.naming import TableNaming
from dovetail.api.text import quote_foreign

REPAIR = "repair or download the file again"
OTHER_FORM = "load the model in the form of transformers, if there is one, or install a plugin that reads this variant"
CONTEXT = 128_000
"""Positions of a model whose file names no length, as in vLLM."""
THETAS = (1e6, 1e4)
"""Bases of the rotary embedding where the file is silent: without a window, and with one."""
UNSUPPORTED = {
    "kv_lora_rank": "attention without latent keys and values",
    "llama_4_scaling": "attention whose temperature does not depend on positions",
    "lora": "a model without adapters inside",
    "multimodal": "a model of text alone",
    "q_lora_rank": "attention without latent queries",
    "quantization": "weights that are not quantized",
    "use_biases": "projections without biases",
    "vision_encoder": "a model of text alone",
}
"""Key of ``params.json`` → what is read in its place."""
YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_max_position_embeddings",
    "beta": "beta_fast",
    "alpha": "beta_slow",
}
SIZES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "vocab_size": "vocab_size",
}
"""Required key → that of ``config.json``."""


class Params:
    """The keys of ``params.json``.

    Args:
        metadata: of the checkpoint; ``file`` names the file, and ``params`` has what is in it.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.file = metadata["file"]
        self.values: Mapping[str, Any] = metadata["params"]

    def get(self, key: str) -> Any:
        """A value, or None. A point in the key stands before the key of an inner object."""
        outer, _, inner = key.partition(".")
        value = self.values.get(outer)
        if not inner or value is None:
            return value
        if not isinstance(value, Mapping):
            raise self.refuse(outer, "an object")
        return value.get(inner)

    def require(self, key: str) -> Any:
        """A required value.

        Raises:
            ConfigError: it is not there.
        """
        if (value := self.get(key)) is None:
            raise ConfigError(f"{self.file} lacks the key {key}", REPAIR)
        return value

    def count(self, key: str) -> int:
        """A required positive whole number.

        Raises:
            ConfigError: it is not there, or is something else.
        """
        value = self.require(key)
        if type(value) is not int or value <= 0:
            raise self.refuse(key, "a positive whole number", REPAIR)
        return value

    def refuse(self, key: str, wanted: str, hint: str = OTHER_FORM) -> ConfigError:
        """The error for a value that is not supported."""
        return ConfigError(f"{self.file} says {key} = {quote_foreign(self.get(key))}, wanted {wanted}", hint)

    def expect_keys(self, key: str, known: Sequence[str]) -> None:
        """Refuse an object with other keys, unless they turn something off.

        Raises:
            ConfigError: there are others, or it is no object.
        """
        if not isinstance(value := self.require(key), Mapping):
            raise self.refuse(key, "an object")
        for inner in value:
            if inner not in known and self.get(f"{key}.{inner}"):
                raise self.refuse(f"{key}.{inner}", f"no keys beside {', '.join(known)} there")


class MistralNaming(TableNaming):
    """A decoder in Mistral's own files. A subclass sets the architecture, and adds the names of its MLP.

    Class attributes:
        architecture: of ``config.json``.
        model_type: of ``config.json``.
        outer, inner: as in :class:`TableNaming`; a subclass adds to ``inner``.
    """

    block = "layers"
    adjacent = True
    outer: ClassVar[dict[str, str]] = {
        "tok_embeddings": "model.embed_tokens",
        "norm": "model.norm",
        "output": "lm_head",
    }
    inner: ClassVar[dict[str, str]] = {
        "attention_norm": "input_layernorm",
        "attention.wq": "self_attn.q_proj",
        "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj",
        "attention.wo": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
    }
    architecture: ClassVar[str]
    model_type: ClassVar[str]

    def config(self, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of ``config.json``; see :meth:`dovetail.api.Naming.config`.

        Raises:
            ConfigError: a key is missing, or a value is not supported.
        """
        params = Params(metadata)
        for key, wanted in UNSUPPORTED.items():
            if params.get(key):
                raise params.refuse(key, wanted)
        if params.get("causal") is False:
            raise params.refuse("causal", "true")
        if params.get("model_type") not in (None, "transformer"):
            raise params.refuse("model_type", "transformer")
        config = {name: params.count(key) for key, name in SIZES.items()}
        heads = config["num_attention_heads"]
        return (
            config
            | {
                "architectures": [self.architecture],
                "model_type": self.model_type,
                "num_key_value_heads": params.count("n_kv_heads") if params.get("n_kv_heads") is not None else heads,
                "head_dim": params.count("head_dim")
                if params.get("head_dim") is not None
                else config["hidden_size"] // heads,
                "hidden_act": params.get("activation") or "silu",
                "rms_norm_eps": params.require("norm_eps"),
                "max_position_embeddings": params.get("max_position_embeddings")
                or params.get("max_seq_len")
                or CONTEXT,
                "tie_word_embeddings": bool(params.get("tied_embeddings")),
                "dtype": metadata.get("dtype"),
            }
            | _window(params, config["num_hidden_layers"])
            | _rope(params)
            | self.more(params)
        )

    def more(self, params: Params) -> dict[str, Any]:
        """Keys of this architecture beside those that all have.

        Args:
            params: the file's.
        """
        return {}


def _rope(params: Params) -> dict[str, Any]:
    windowed = bool(params.get("sliding_window"))
    found: dict[str, Any] = {"rope_theta": params.get("rope_theta") or THETAS[windowed]}
    if not params.get("yarn"):
        return found
    params.expect_keys("yarn", (*YARN, "apply_scale"))
    scaling = {name: value for key, name in YARN.items() if (value := params.get(f"yarn.{key}")) is not None}
    if params.get("yarn.apply_scale") is False:
        scaling["attention_factor"] = 1.0
    return found | {"rope_scaling": {"rope_type": "yarn"} | scaling}


def _window(params: Params, layers: int) -> dict[str, Any]:
    """The window. A list has an entry for each layer of a group, and null for a layer without one."""
    key = "sliding_window" if params.get("sliding_window") is not None else "_sliding_window"
    given = params.get(key)
    if not isinstance(given, list):
        return {"sliding_window": given or None}
    windows = {window for window in given if type(window) is int}
    if len(windows) != 1 or layers % len(given) or not all(type(window) in (int, type(None)) for window in given):
        raise params.refuse(key, f"one number and null, as many as divide the {layers} layers")
    types = ["full_attention" if window is None else "sliding_attention" for window in given]
    return {"sliding_window": windows.pop(), "layer_types": types * (layers // len(given))}
