"""The worker that ``collective_rpc`` calls, for an engine in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.engine.step.core import EngineCore
from dovetail.engine.step.runner import ModelRunner


class Worker:
    """The only worker of an engine in this process.

    Attributes:
        rank, local_rank: always 0.
        model_runner: the model on its device; its ``model`` is the module.
    """

    rank = local_rank = 0

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    @property
    def model_runner(self) -> ModelRunner:
        return self._core.runner

    @property
    def device(self) -> Any:
        """The model's ``torch.device``."""
        return self.model_runner.device

    def get_model(self) -> Any:
        """The model, a ``torch.nn.Module``."""
        return self.model_runner.model

    def reset_prefix_cache(self) -> bool:
        """Empty the prefix cache, which is necessary after a change of the weights."""
        return self._core.reset_prefix_cache()

    def sleep(self, level: int = 1) -> None:
        """See :meth:`dovetail.engine.offline.llm.LLM.sleep`."""
        self._core.sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """See :meth:`dovetail.engine.offline.llm.LLM.wake_up`."""
        self._core.wake_up(tags)

    def reload_weights(self) -> None:
        """Read the weights from their files again, which undoes all changes. A sleeping KV cache stays asleep."""
        cache_sleeps = self._core.is_sleeping
        self._core.wake_up()
        self._core.sleep(2)
        self._core.wake_up(["weights"] if cache_sleeps else None)

    def list_loras(self) -> list[str]:
        """Names of the loaded LoRA adapters."""
        return sorted(self._core.state.adapters)

    def check_health(self) -> None:
        """Does nothing, because the worker runs in this process."""

    def call(
        self, method: str | Callable[..., Any], arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a method of this worker by name, or a function with the worker as its first argument.

        Raises:
            UsageError: there is no such method.
        """
        if callable(method):
            return method(self, *arguments, **(keywords or {}))
        if not isinstance(method, str) or method not in METHODS:
            raise UsageError(
                f"the worker has no method {method!r}",
                f"there are {', '.join(METHODS)}; or give a function of the worker",
            )
        return getattr(self, method)(*arguments, **(keywords or {}))


METHODS = tuple(
    sorted(
        name for name, value in vars(Worker).items() if not name.startswith("_") and name != "call" and callable(value)
    )
)
"""Methods that can be called by name."""
