"""What ``collective_rpc`` reaches of an engine in this process: one worker, whose methods scripts call by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dovetail.api.errors import UsageError
from dovetail.engine.step.core import EngineCore
from dovetail.engine.step.runner import ModelRunner


class Worker:
    """The one worker of an engine that runs in this process.

    Attributes:
        rank, local_rank: 0, of one.
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
        """Forget the cached prefixes, as a change of the weights asks for."""
        return self._core.reset_prefix_cache()

    def sleep(self, level: int = 1) -> None:
        """See :meth:`dovetail.engine.offline.llm.LLM.sleep`."""
        self._core.sleep(level)

    def wake_up(self, tags: list[str] | None = None) -> None:
        """See :meth:`dovetail.engine.offline.llm.LLM.wake_up`."""
        self._core.wake_up(tags)

    def reload_weights(self) -> None:
        """Read the weights from their files again, whatever was done to them since. A KV cache that sleeps goes on sleeping."""
        cache_sleeps = self._core.is_sleeping
        self._core.wake_up()
        self._core.sleep(2)
        self._core.wake_up(["weights"] if cache_sleeps else None)

    def list_loras(self) -> list[str]:
        """Names of the LoRA adapters that are loaded."""
        return sorted(self._core.state.adapters)

    def check_health(self) -> None:
        """Nothing to check: what runs in this process is as well as it is."""

    def call(
        self, method: str | Callable[..., Any], arguments: Sequence[Any] = (), keywords: Mapping[str, Any] | None = None
    ) -> Any:
        """What a method of this worker returns, or a function that takes the worker first.

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
"""What can be called by name."""
