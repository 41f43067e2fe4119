"""Memory of the engine under many small requests whose grammars are large."""

from __future__ import annotations

import json

import pytest

from dovetail.api.grammar import GrammarBackend
from dovetail.engine.grammars.compiler import GrammarManager, RequestGrammar
from dovetail.engine.request.params import StructuredOutputs
from dovetail.kernel.discovery import import_dotted
from dovetail.testing.grammars import small_tokenizer
from dovetail.utils.process_memory import release_free_memory, resident_bytes

MB = 1 << 20
MAX_BYTES = 64 * MB
ROUND = 40
"""Requests of a round: together about twice what the cache takes."""


def load() -> GrammarBackend:
    tokenizer = small_tokenizer()
    end = tokenizer.token_to_id("<|end|>")
    backend: type[GrammarBackend] = import_dotted("dovetail_grammars_llguidance.backend:Backend")
    return backend(tokenizer, tokenizer.get_vocab_size(), [end])


def hostile(number: int) -> StructuredOutputs:
    match number % 4:
        case 0:
            return StructuredOutputs(choice=[f"{number:06d}{i:06d}" + "x" * 80 for i in range(5000)])
        case 1:
            return StructuredOutputs(regex=f"{number}[ab]c{{1000000}}")
        case 2:
            enum = [f"{number:06d}{i:06d}" + "y" * 80 for i in range(5000)]
            return StructuredOutputs(json={"type": "object", "properties": {"a": {"enum": enum}}, "required": ["a"]})
        case _:
            return StructuredOutputs(regex=f"{number}" + r"\p{L}" * 20_000)


def use(manager: GrammarManager, number: int) -> None:
    run: RequestGrammar = manager.compile(hostile(number))
    assert run.wait(120)
    for token in small_tokenizer().encode(json.dumps(number), add_special_tokens=False).ids[:2]:
        run.masks([])
        run.accept([token])
    run.masks([])


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.sweep)])
def test_memory_is_bounded_however_many_grammars_come(rounds: int) -> None:
    manager = GrammarManager(load, small_tokenizer().get_vocab_size(), [0], max_bytes=MAX_BYTES)
    use(manager, 3)
    release_free_memory()
    before = resident_bytes()
    grown = []
    for turn in range(rounds):
        for number in range(turn * ROUND, (turn + 1) * ROUND):
            use(manager, 1000 + number)
        assert manager.cache.num_bytes <= MAX_BYTES
        release_free_memory()
        grown.append((resident_bytes() - before) // MB)
    manager.shutdown()
    # The second compilation of a pair that runs at once, and what the allocator keeps, come on top.
    assert max(grown) < 2 * MAX_BYTES // MB, grown
    assert grown[-1] <= grown[0] + 24, grown
