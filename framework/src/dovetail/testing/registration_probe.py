"""The child process of ``check_registration``: it is run by path, so that it imports the plugin and nothing of
``dovetail.testing``.

Reads a JSON object (module, path) and prints one (faults, seconds) as its last line.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetail.api import Card

FUNCTIONS = ("inspect", "probe", "accepts", "validate_source")
"""Attributes of cards that name functions; the others name classes or objects."""
HEAVY = ("torch", "transformers", "tensorflow", "jax", "triton", "PIL")


def imported_heavy_modules() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def torch_free_names(card: Card) -> Iterator[tuple[str, str]]:
    """The names on a card that must be importable without torch: (attribute, dotted name)."""
    for attribute in ("config", "processor", "inspect", "probe", "accepts", "validate_source"):
        if (dotted := getattr(card, attribute, None)) is not None:
            yield attribute, dotted
    if card.kind.endswith("_parser"):
        yield "target", card.target  # type: ignore[attr-defined]
    for container, naming in getattr(card, "naming", {}).items():
        yield f"naming[{container!r}]", naming.target


def examine(module_name: str) -> tuple[list[str], float]:
    # Imported beforehand: what the framework itself costs is not the plugin's.
    from dovetail.api import PluginError
    from dovetail.kernel.discovery import find_cards, import_dotted

    faults: list[str] = []
    started = time.process_time()
    module = importlib.import_module(module_name)
    cards = find_cards(module)
    seconds = time.process_time() - started
    if not cards:
        faults.append("registers no card")
    if found := imported_heavy_modules():
        faults.append(f"importing and registering it imports {', '.join(found)}")
    clean = not found
    for card in cards:
        for attribute, dotted in torch_free_names(card):
            where = f"{card.kind} {card.name!r}: {attribute} {dotted}"
            try:
                value = import_dotted(dotted)
            except PluginError as error:
                faults.append(f"{where}: {error}")
                continue
            if clean and (found := imported_heavy_modules()):
                faults.append(f"{where}: importing it imports {', '.join(found)}")
                clean = False
            if attribute in FUNCTIONS and not callable(value):
                faults.append(f"{where} is not callable")
    return faults, seconds


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    # Exactly that of the process that asks.
    sys.path[:] = request["path"]
    found_faults, cost = examine(request["module"])
    print(json.dumps({"faults": found_faults, "seconds": cost}))
