"""LoRA adapters in the engine: registered by name, read when needed, and given a slot on the device while requests use
them.

Any number of adapters may be loaded. ``max_loras`` of them are on the device at once. When another one is needed, the
least recently used slot is replaced. If all slots are in use, the adapter with the fewest running requests accepts no
later requests until its slot is free, so a busy adapter cannot block the others. In addition, ``max_cpu_loras``
adapters are cached in the host's memory; others are read from their files again.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import ReferenceType, WeakKeyDictionary, WeakValueDictionary, ref

import torch

from dovetail.api.errors import DovetailError, RequestError, UsageError
from dovetail.engine.adapters.lora_request import ADAPTER_CONFIG_FILE, AdapterSource
from dovetail.engine.engine_request import Request
from dovetail.kernel.blame import describe_error
from dovetail.nn.checked_parts import load_tensors
from dovetail.nn.context import Context
from dovetail.nn.lora import AdapterWeights, StackedAdapters
from dovetail.nn.lora_loading import LoraTargets, read_adapter


@dataclass(eq=False)
class Adapter:
    """One load of an adapter. It stays valid for its requests even if its name is unloaded.

    Attributes:
        key: part of the prefix-cache key. Unique for each load, even if the name is used again.
        weights: on the host.
        slot: on the device, from 1; 0 while it has none.
        users: number of running requests that use it.
    """

    name: str
    key: str
    weights: AdapterWeights
    slot: int = 0
    users: int = 0


@dataclass(frozen=True)
class _RegisteredAdapter:
    """A name that requests may use.

    Attributes:
        file_stamps: size and time of the files when they were first read.
    """

    source: AdapterSource
    key: str
    file_stamps: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Drain:
    """An adapter that is being drained: later requests for it wait until the waiting request has a slot.

    Attributes:
        waiting: a weak reference to the waiting request. If that is aborted, draining ends.
    """

    adapter: Adapter
    waiting: ReferenceType[Request]
    order: tuple[int, int]


class AdapterSlots:
    """The registered adapters, and their slots on the device.

    A request gets its adapter from :meth:`assign` when it arrives, and keeps it. It has a slot only while it runs: this
    class is an :class:`~dovetail.engine.step.scheduler.AdmissionGate` of the scheduler.

    Args:
        ctx: that the model was built with.
        max_cpu_loras: adapters cached on the host; None for as many as there are slots.
        rename: the model's translation of names; see :meth:`dovetail.nn.PoolingModel.rename`.

    Raises:
        UsageError: ``max_cpu_loras`` is lower than the number of slots. Adapters with a slot are always kept on the
            host.
    """

    def __init__(
        self, ctx: Context, max_cpu_loras: int | None = None, rename: Callable[[str], str | None] | None = None
    ) -> None:
        slots = ctx.adapters.slots if ctx.adapters is not None else 0
        self.targets = LoraTargets.of(ctx, rename) if ctx.adapters is not None else None
        self._stacks = _weak_stacks(ctx)
        self.max_cpu_loras = slots if max_cpu_loras is None else max_cpu_loras
        if self.max_cpu_loras < slots:
            raise UsageError(
                f"--max-cpu-loras is {max_cpu_loras}, lower than the --max-loras of {slots}",
                "raise it, or leave it out",
            )
        self._registered: dict[str, _RegisteredAdapter] = {}
        self._key_numbers = itertools.count(1)
        self._drain: _Drain | None = None
        self._assigned: WeakKeyDictionary[Request, Adapter] = WeakKeyDictionary()
        self._loaded: WeakValueDictionary[str, Adapter] = WeakValueDictionary()
        self._host_cache: OrderedDict[str, Adapter] = OrderedDict()  # by key; the one asked for last stands last
        self._idle_slots: OrderedDict[int, Adapter | None] = OrderedDict.fromkeys(range(1, slots + 1))  # likewise

    @property
    def names(self) -> list[str]:
        return list(self._registered)

    @property
    def origins(self) -> dict[str, str]:
        """Name → the adapter's folder or repository, as the user gave it."""
        return {name: known.source.origin for name, known in self._registered.items()}

    def names_used_by(self, requests: Iterable[Request]) -> set[str]:
        """Names of the adapters that these requests use."""
        if not self._assigned:
            return set()
        return {adapter.name for request in requests if (adapter := self._assigned.get(request)) is not None}

    def add(self, source: AdapterSource) -> None:
        """Load an adapter: check it against the model, read it, and register its name.

        Raises:
            RequestError: adapters are not enabled, the name is in use, or the adapter does not fit; with every reason.
        """
        self._require_enabled()
        if source.name in self._registered:
            raise RequestError(
                f"an adapter {source.name!r} is loaded already",
                "unload it first, or choose another name",
                param="lora_name",
            )
        known = _RegisteredAdapter(source, f"lora:{next(self._key_numbers)}", _read_file_stamps(source))
        self._keep_on_host(self._read(known))
        self._registered[source.name] = known

    def remove(self, name: str) -> None:
        """Unregister a name at once. Its requests, running or waiting, finish with the adapter; then its slot and
        memory are freed.

        Raises:
            RequestError: there is no adapter of that name.
        """
        self._require_enabled()
        known = self._registered.pop(name, None)
        if known is None:
            raise self._unknown_adapter(name)
        self._host_cache.pop(known.key, None)
        for slot, adapter in self._idle_slots.items():
            if adapter is not None and adapter.key == known.key:
                self._vacate(slot)
                break

    def assign(self, request: Request, name: str) -> str:
        """Give a new request its adapter. The adapter is read again if the host's cache has dropped it.

        Returns:
            The adapter's part of the request's prefix-cache key.

        Raises:
            RequestError: adapters are not enabled, there is none of that name, or its files are gone or have changed.
        """
        self._require_enabled()
        known = self._registered.get(name)
        if known is None:
            raise self._unknown_adapter(name)
        adapter = self._loaded.get(known.key)
        if adapter is None:
            if _read_file_stamps(known.source) != known.file_stamps:
                raise RequestError(
                    f"the adapter {name!r} has changed at {known.source.path} since it was loaded",
                    "unload it and load it again",
                    param="model",
                )
            adapter = self._read(known)
        self._keep_on_host(adapter)
        self._assigned[request] = adapter
        return adapter.key

    def can_admit(self, request: Request) -> bool:
        """Whether the request's adapter has a slot, or could get one now. Call it for the requests in their order."""
        adapter = self._assigned.get(request)
        if adapter is None:
            return True
        if adapter.slot:
            return not self._is_blocked_by_drain(request, adapter)
        if not self._idle_slots:
            self._start_drain(request)
        return bool(self._idle_slots)

    def _start_drain(self, request: Request) -> None:
        """Choose an adapter to drain, so that a slot becomes free for this request."""
        if self._drain is None or self._drain.waiting() is None:
            least = min((a for a in self._loaded.values() if a.users), key=lambda a: (a.users, a.slot))
            self._drain = _Drain(least, ref(request), _sort_key(request))

    def _is_blocked_by_drain(self, request: Request, adapter: Adapter) -> bool:
        drain = self._drain
        return (
            drain is not None
            and drain.adapter is adapter
            and drain.waiting() is not None
            and _sort_key(request) > drain.order
        )

    def acquire(self, request: Request) -> None:
        """Set the request's slot. The weights are copied to the device if they are not there."""
        adapter = self._assigned.get(request)
        if adapter is None:
            return
        if not adapter.slot:
            self._install(adapter)
        if not adapter.users:
            del self._idle_slots[adapter.slot]
        adapter.users += 1
        request.lora_slot = adapter.slot
        if self._drain is not None and self._drain.waiting() is request:
            self._drain = None

    def release(self, request: Request) -> None:
        """Release the slot of a request that finished or was preempted."""
        adapter = self._assigned.get(request)
        if adapter is None:
            return
        assert request.lora_slot, f"request {request.id} leaves a slot that it does not have"
        request.lora_slot = 0
        adapter.users -= 1
        if not adapter.users:
            if self._drain is not None and self._drain.adapter is adapter:
                self._drain = None
            self._idle_slots[adapter.slot] = adapter
            known = self._registered.get(adapter.name)
            if known is None or known.key != adapter.key:
                self._vacate(adapter.slot)  # its name was unloaded meanwhile

    def rebind(self, ctx: Context) -> None:
        """Use a newly built model, whose slots are empty. No request may be running."""
        self._stacks = _weak_stacks(ctx)
        for slot in list(self._idle_slots):
            if self._idle_slots[slot] is not None:
                self._vacate(slot)

    def _install(self, adapter: Adapter) -> None:
        """Write an adapter into the least recently used idle slot."""
        assert self._idle_slots, "no slot is free: ask may_enter first"
        stacks = self._stacks() if self._stacks is not None else None
        assert stacks is not None, "the model is gone"
        slot, previous = next(iter(self._idle_slots.items()))
        if previous is not None:
            previous.slot = 0
        stacks.write(slot, adapter.weights)
        adapter.slot = slot

    def _vacate(self, slot: int) -> None:
        """Empty the slot of an idle adapter, and make it the next one to be used."""
        adapter = self._idle_slots[slot]
        assert adapter is not None
        adapter.slot = 0
        self._idle_slots[slot] = None
        self._idle_slots.move_to_end(slot, last=False)

    def _keep_on_host(self, adapter: Adapter) -> None:
        self._loaded[adapter.key] = adapter
        self._host_cache[adapter.key] = adapter
        self._host_cache.move_to_end(adapter.key)
        while len(self._host_cache) > self.max_cpu_loras:
            self._host_cache.popitem(last=False)

    def _read(self, known: _RegisteredAdapter) -> Adapter:
        assert self.targets is not None
        source = known.source
        label = f"the adapter {source.name!r} ({source.path})"
        try:
            tensors = list(load_tensors(source.loader, source.checkpoint, {}, torch.device("cpu")))
            return Adapter(source.name, known.key, read_adapter(label, source.config, tensors, self.targets))
        except RequestError:
            raise
        except DovetailError as error:
            raise RequestError(f"{label} cannot be read: {error.problem}", error.hint, param="lora_path") from None
        except Exception as error:  # whatever a loader does with a damaged file must not end the engine
            raise RequestError(
                f"{label} cannot be read: {describe_error(error)}", "check its files", param="lora_path"
            ) from error

    def _require_enabled(self) -> None:
        if self.targets is None:
            raise RequestError("the engine was started without adapters", "start it with --enable-lora", param="model")

    def _unknown_adapter(self, name: str) -> RequestError:
        known = ", ".join(map(repr, self._registered)) or "none"
        return RequestError(
            f"wanted the adapter {name!r}, found {known}", "load it, or correct the name", param="model"
        )


def _sort_key(request: Request) -> tuple[int, int]:
    """The scheduler's order: requests only have priorities if its policy uses them."""
    return request.priority, request.arrival_index


def _weak_stacks(ctx: Context) -> ReferenceType[StackedAdapters] | None:
    """Weak references to the adapter stacks, so that the slots do not keep a model in memory that was dropped while the
    engine sleeps.
    """
    return None if ctx.adapters is None else ref(ctx.adapters)


def _read_file_stamps(source: AdapterSource) -> tuple[tuple[int, int], ...]:
    """Size and modification time of each file. A changed file must not match cached prefixes.

    Raises:
        RequestError: a file is gone.
    """
    try:
        stats = [Path(file).stat() for file in (*source.checkpoint.files, str(Path(source.path) / ADAPTER_CONFIG_FILE))]
    except OSError as error:
        raise RequestError(
            f"the adapter {source.name!r} cannot be read: {error}", "unload it, or restore its files", param="lora_path"
        ) from None
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
