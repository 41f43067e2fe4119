"""Configurations of the models in ``kit_models``; torch-free, as configurations must be."""

from pydantic import model_validator

from dovetail.api import AttentionRequirement, ModelConfig

TINY = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "inner": 48,
    "max_position_embeddings": 64,
}


class SmallConfig(ModelConfig):
    num_heads: int
    num_kv_heads: int
    inner: int
    window: int | None = None

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"sliding"} if self.window else ()), head_dim=self.head_dim),)


class WholeConfig(SmallConfig):
    """Of a model whose tokens see the whole prompt."""

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        features = {"bidirectional", *(("sliding",) if self.window else ())}
        return (AttentionRequirement(features=frozenset(features), head_dim=self.head_dim),)


class NarrowValues(SmallConfig):
    """Announces values of another size than its layers have."""

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(features=frozenset({"value_dim"}), head_dim=self.head_dim, value_dim=4),)


class ForgottenWindow(SmallConfig):
    """Announces full attention whatever its layers ask for."""

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return (AttentionRequirement(head_dim=self.head_dim),)


class Wordy(SmallConfig):
    """Announces its attention in words."""

    def attention_requirements(self) -> tuple[AttentionRequirement, ...]:
        return "full"


class Choosy(SmallConfig):
    """Refuses an architecture that its card claims."""

    @model_validator(mode="after")
    def _refuse(self) -> "Choosy":
        if self.architectures != ("SmallForCausalLM",):
            raise ValueError("only SmallForCausalLM")
        return self
