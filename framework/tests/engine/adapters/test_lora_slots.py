"""Slots for the adapters that requests run with: who gets one, who waits, and what is read again."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path

import pytest
import torch

from dovetail import SamplingParams
from dovetail.api import RequestError, UsageError
from dovetail.engine.adapters.lora_request import (
    AdapterSource,
    find_adapter,
)
from dovetail.engine.adapters.lora_slots import AdapterSlots
from dovetail.engine.engine_request import Request
from dovetail.nn import Context, Linear, Ops, Step
from dovetail.nn.dense import DenseKernel, DenseWeight
from dovetail.testing import ReferenceAttention

from . import adapter_folders
from .adapter_folders import COLUMNS, MODULE, ROWS, registry, write


def make_model(max_loras: int = 2) -> tuple[Context, Linear]:
    """A model of one layer, whose own weight is zero: what it gives is what an adapter adds."""
    device = torch.device("cpu")
    attention = ReferenceAttention(device=device, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    ctx = Context(
        device=device,
        dtype=torch.float32,
        ops=Ops(),
        attention=attention,
        max_tokens=8,
        max_loras=max_loras,
        max_lora_rank=16,
    )
    layer = ctx.linear(MODULE, COLUMNS, ROWS)
    weight = DenseWeight.of(torch.zeros(ROWS, COLUMNS), "float32")
    layer.finish(dict.fromkeys(layer.parts, weight), lambda w, kind: DenseKernel(w, kind, device, torch.float32))
    return ctx, layer


def make_request(arrival: int = 0, priority: int = 0) -> Request:
    return Request("r", [1], SamplingParams(), 1, 8, frozenset(), arrival_index=arrival, priority=priority)


def assigned(slots: AdapterSlots, name: str, arrival: int = 0, priority: int = 0) -> Request:
    """A request that waits with the adapter of that name."""
    request = make_request(arrival, priority)
    slots.assign(request, name)
    return request


def entered(slots: AdapterSlots, name: str) -> Request:
    """A request that runs with the adapter of that name."""
    request = assigned(slots, name)
    assert slots.can_admit(request)
    slots.acquire(request)
    return request


def output(ctx: Context, layer: Linear, *requests: Request) -> torch.Tensor:
    """What the layer gives a token of ones of each request: ``[R, N]``."""
    none = torch.zeros(0, dtype=torch.int64)
    chosen = torch.tensor([r.lora_slot for r in requests])
    assert ctx.adapters is not None
    ctx.adapters.begin_step(Step(none, none, none.int(), none.int(), none, (), 1, 1, adapters=chosen))
    return layer(torch.ones(len(requests), COLUMNS))


def wanted(seed: int) -> torch.Tensor:
    """The same for the adapter that was written with a seed: ``[N]``."""
    rng = adapter_folders.np.random.default_rng(seed)
    a = rng.standard_normal((adapter_folders.RANK, COLUMNS), "float32")
    b = rng.standard_normal((ROWS, adapter_folders.RANK), "float32")
    return torch.from_numpy(b @ a).sum(1)


def find(folder: Path, name: str = "a") -> AdapterSource:
    return find_adapter(name, str(folder), registry())


def add_all(slots: AdapterSlots, folder: Path, names: str) -> None:
    """An adapter of each letter, written with its place in the alphabet as the seed."""
    for name in names:
        slots.add(find(write(folder / name, ord(name)), name))


def test_requests_with_different_adapters_share_a_batch(tmp_path: Path) -> None:
    ctx, layer = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "ab")
    plain, a, b = make_request(), entered(slots, "a"), entered(slots, "b")
    assert slots.can_admit(plain)
    slots.acquire(plain)
    assert sorted([plain.lora_slot, a.lora_slot, b.lora_slot]) == [0, 1, 2]
    rows = output(ctx, layer, plain, a, b)
    torch.testing.assert_close(rows, torch.stack([torch.zeros(ROWS), wanted(ord("a")), wanted(ord("b"))]))
    slots.release(plain)
    slots.release(a)
    assert a.lora_slot == 0


def test_a_request_waits_while_others_hold_every_slot(tmp_path: Path) -> None:
    ctx, layer = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "abc")
    a, again, b, c = entered(slots, "a"), entered(slots, "a"), entered(slots, "b"), make_request()
    slots.assign(c, "c")
    assert again.lora_slot == a.lora_slot
    assert not slots.can_admit(c)
    slots.release(a)
    assert not slots.can_admit(c)
    slots.release(again)
    assert slots.can_admit(c)
    slots.acquire(c)
    torch.testing.assert_close(output(ctx, layer, b, c), torch.stack([wanted(ord("b")), wanted(ord("c"))]))


def test_the_adapter_that_was_idle_for_longest_gives_up_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "abc")
    assert ctx.adapters is not None
    written: list[int] = []
    write_slot = ctx.adapters.write
    monkeypatch.setattr(ctx.adapters, "write", lambda slot, weights: (written.append(slot), write_slot(slot, weights)))
    for name in "abab":
        slots.release(entered(slots, name))
    assert written == [1, 2]  # the second time, both are still there
    slots.release(entered(slots, "a"))
    slots.release(entered(slots, "c"))
    assert written == [1, 2, 2]  # in b's place
    slots.release(entered(slots, "a"))
    assert written == [1, 2, 2]
    slots.release(entered(slots, "b"))
    assert written == [1, 2, 2, 2]  # in c's


def test_a_busy_adapter_does_not_keep_another_waiting_for_ever(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "abc")
    a, b, also_b = entered(slots, "a"), entered(slots, "b"), entered(slots, "b")
    c = assigned(slots, "c", arrival=5)
    assert not slots.can_admit(c)
    assert not slots.can_admit(assigned(slots, "a", arrival=6))  # a is the less used one, whose slot c will get
    assert slots.can_admit(assigned(slots, "a", arrival=4))  # preempted, say
    assert slots.can_admit(assigned(slots, "a", arrival=7, priority=-1))
    assert slots.can_admit(assigned(slots, "b", arrival=6))
    slots.release(a)
    assert slots.can_admit(c)
    slots.acquire(c)
    assert slots.can_admit(assigned(slots, "b", arrival=8))
    slots.release(b)
    slots.release(also_b)
    assert slots.can_admit(assigned(slots, "a", arrival=6))


@pytest.mark.parametrize("ends", ["aborted", "another slot"])
def test_an_adapter_takes_requests_again_once_nobody_waits_for_its_slot(tmp_path: Path, ends: str) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "abc")
    running = [entered(slots, name) for name in "aabbb"]
    c = assigned(slots, "c", arrival=5)
    assert not slots.can_admit(c)
    newer = assigned(slots, "a", arrival=6)
    assert not slots.can_admit(newer)
    if ends == "aborted":
        del c
        gc.collect()
    else:
        for request in running[2:]:
            slots.release(request)
        slots.acquire(c)
    assert slots.can_admit(newer)


def test_many_adapters_in_random_order_are_always_the_right_ones(tmp_path: Path) -> None:
    ctx, layer = make_model(max_loras=3)
    slots = AdapterSlots(ctx)
    names = "abcdefg"
    add_all(slots, tmp_path, names)
    generator = torch.Generator().manual_seed(0)
    running: list[tuple[Request, str]] = []
    admitted = 0
    for _ in range(300):
        if running and torch.rand((), generator=generator) < 0.5:
            slots.release(running.pop(int(torch.randint(len(running), (), generator=generator)))[0])
        else:
            name = names[int(torch.randint(len(names), (), generator=generator))]
            request = assigned(slots, name)  # all of one arrival, so that none is held back for another
            held = {n for _, n in running}
            assert slots.can_admit(request) == (name in held or len(held) < 3)
            if slots.can_admit(request):
                slots.acquire(request)
                running.append((request, name))
                admitted += 1
        if running:
            found = output(ctx, layer, *(r for r, _ in running))
            torch.testing.assert_close(found, torch.stack([wanted(ord(n)) for _, n in running]))
    assert admitted > 100


def test_an_unloaded_adapter_serves_those_that_have_it_and_nobody_else(tmp_path: Path) -> None:
    ctx, layer = make_model(max_loras=1)
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "a")
    running, waiting = entered(slots, "a"), make_request()
    slots.assign(waiting, "a")
    slots.remove("a")
    with pytest.raises(RequestError, match="wanted the adapter 'a', found none"):
        slots.assign(make_request(), "a")
    slots.add(find(write(tmp_path / "new", 7), "a"))  # the name is free at once
    torch.testing.assert_close(output(ctx, layer, running)[0], wanted(ord("a")))
    slots.release(running)
    slots.acquire(waiting)
    torch.testing.assert_close(output(ctx, layer, waiting)[0], wanted(ord("a")))
    slots.release(waiting)
    torch.testing.assert_close(output(ctx, layer, entered(slots, "a"))[0], wanted(7))


def test_an_idle_adapter_that_is_unloaded_frees_its_slot_first(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "abc")
    for name in "ab":
        slots.release(entered(slots, name))
    slots.remove("b")
    slots.release(entered(slots, "c"))
    a = entered(slots, "a")
    assert a.lora_slot == 1  # it was not displaced, although it had been idle for longer


def test_every_loading_has_its_own_key_for_the_prefix_cache(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "ab")
    keys = [slots.assign(make_request(), name) for name in "aab"]
    assert keys[0] == keys[1] != keys[2]
    slots.remove("a")
    slots.add(find(tmp_path / "a", "a"))
    assert slots.assign(make_request(), "a") not in keys


def test_the_host_keeps_so_many_and_reads_others_again(tmp_path: Path) -> None:
    ctx, layer = make_model(max_loras=1)
    slots = AdapterSlots(ctx, max_cpu_loras=2)
    add_all(slots, tmp_path, "abcd")
    gc.collect()
    assert {adapter.name for adapter in slots._loaded.values()} == {"c", "d"}
    for name in "adbcabdc":
        request = entered(slots, name)
        torch.testing.assert_close(output(ctx, layer, request)[0], wanted(ord(name)))
        slots.release(request)
    del request
    gc.collect()
    assert len(slots._loaded) == 2


def test_files_that_change_after_loading_are_not_taken_for_the_same_adapter(tmp_path: Path) -> None:
    ctx, _ = make_model(max_loras=1)
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "ab")
    weights = write(tmp_path / "a", 9) / "adapter_model.npz"
    os.utime(weights, (1, 1))
    with pytest.raises(RequestError, match="the adapter 'a' has changed"):
        slots.assign(make_request(), "a")
    weights.unlink()
    with pytest.raises(RequestError, match="the adapter 'a' cannot be read"):
        slots.assign(make_request(), "a")
    slots.assign(make_request(), "b")


def test_a_request_that_leaves_unrun_holds_nothing(tmp_path: Path) -> None:
    ctx, _ = make_model(max_loras=1)
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "a")
    request = make_request()
    slots.assign(request, "a")
    slots.remove("a")
    (adapter,) = slots._loaded.values()
    gone = weakref.ref(adapter)
    del adapter, request
    gc.collect()
    assert gone() is None


def test_a_model_that_is_made_anew_gets_its_adapters_again(tmp_path: Path) -> None:
    ctx, layer = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "ab")
    for name in "ab":
        slots.release(entered(slots, name))
    stacks = weakref.ref(ctx.adapters)
    del ctx, layer
    gc.collect()
    assert stacks() is None  # what the engine drops to sleep is not held
    waiting = make_request()
    slots.assign(waiting, "a")
    ctx, layer = make_model()
    slots.rebind(ctx)
    slots.acquire(waiting)
    found = output(ctx, layer, waiting, entered(slots, "b"))
    torch.testing.assert_close(found, torch.stack([wanted(ord("a")), wanted(ord("b"))]))


# -- refusals


def test_an_adapter_for_another_model_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    source = find(write(tmp_path, use_dora=True, r=2))
    with pytest.raises(RequestError) as error:
        slots.add(source)
    for reason in ("the adapter 'a'", str(tmp_path), "use_dora", f"{MODULE}.lora_A.weight is [4, 8], wanted [2, 8]"):
        assert reason in error.value.problem
    assert slots.names == []
    slots.add(find(write(tmp_path)))
    assert slots.names == ["a"]


def test_a_loader_that_fails_is_an_adapter_that_cannot_be_read(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    folder = write(tmp_path)
    (folder / "adapter_model.npz").write_bytes(b"no archive at all")
    with pytest.raises(RequestError, match=r"the adapter 'a' .* cannot be read: "):
        slots.add(find(folder))


def test_a_name_is_loaded_once(tmp_path: Path) -> None:
    ctx, _ = make_model()
    slots = AdapterSlots(ctx)
    add_all(slots, tmp_path, "a")
    with pytest.raises(RequestError, match="an adapter 'a' is loaded already"):
        slots.add(find(tmp_path / "a", "a"))
    with pytest.raises(RequestError, match="wanted the adapter 'b', found 'a'"):
        slots.remove("b")


def test_an_engine_without_adapters_says_how_to_get_them(tmp_path: Path) -> None:
    ctx, _ = make_model(max_loras=0)
    slots = AdapterSlots(ctx)
    plain = make_request()
    assert slots.can_admit(plain)
    for action in (
        lambda: slots.add(find(write(tmp_path))),
        lambda: slots.remove("a"),
        lambda: slots.assign(plain, "a"),
    ):
        with pytest.raises(RequestError, match="--enable-lora"):
            action()


def test_fewer_host_copies_than_slots_are_refused() -> None:
    ctx, _ = make_model(max_loras=2)
    with pytest.raises(UsageError, match="--max-cpu-loras is 1, lower than the --max-loras of 2"):
        AdapterSlots(ctx, max_cpu_loras=1)
