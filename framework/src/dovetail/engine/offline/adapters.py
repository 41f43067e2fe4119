"""LoRA adapters of the offline API, loaded when a call first names them."""

from __future__ import annotations

from dovetail.engine.adapters.lora_request import (
    LoRARequest,
    adapters_not_enabled,
    check_adapter_name,
    find_adapter,
    needs_loading,
    parse_lora_modules,
)
from dovetail.engine.args import EngineArgs
from dovetail.engine.step.core import EngineCore
from dovetail.kernel.registry import Registry


class OfflineAdapters:
    """The loaded adapters of an engine, by name.

    Raises:
        RequestError, UsageError: one of ``lora_modules`` cannot be loaded.
    """

    def __init__(self, core: EngineCore, args: EngineArgs) -> None:
        self._core = core
        self._args = args
        self._paths: dict[str, str] = {}
        for module in parse_lora_modules(args.lora_modules):
            self._load(module.name, module.path)

    def name(self, request: LoRARequest | None) -> str | None:
        """The engine's name of a request's adapter. Loads the adapter if necessary.

        Raises:
            RequestError: it cannot be loaded, or the name belongs to another path.
        """
        if request is None:
            return None
        if needs_loading(request, self._paths, self._args.enable_lora):
            self._load(request.lora_name, request.lora_path)
        return request.lora_name

    def _load(self, name: str, path: str) -> None:
        if not self._args.enable_lora:
            raise adapters_not_enabled(name)
        check_adapter_name(name, (), self._paths)
        registry = Registry.load(plugins=self._args.plugins, prefer=self._args.prefer)
        source = find_adapter(name, path, registry, self._args.download_dir, self._args.hf_token)
        self._core.add_adapter(source.model_dump_json())
        self._paths[name] = path
