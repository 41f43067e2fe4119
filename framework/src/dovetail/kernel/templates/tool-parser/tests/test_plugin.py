"""The conformance kit on the parser's card, with outputs of the model."""

from __future__ import annotations

from dovetail.testing import ToolSample, check_registration, check_tool_parser

import PLUGIN_MODULE

(CARD,) = PLUGIN_MODULE.dovetail_register_parsers()

START, END = "<PLUGIN_NAME>", "</PLUGIN_NAME>"
ARGUMENTS = f'{{"query": "after {START} 🌦"}}'
CALL = f'{START}\n{{"name": "search", "arguments": {ARGUMENTS}}}\n{END}'
NOW = f'{START}\n{{"name": "now"}}\n{END}'
PROSE = f"Calls begin with {START}, if any do."
SAMPLES = [
    ToolSample(CALL, (("search", ARGUMENTS),)),
    ToolSample(f"First this.\n{CALL}\n{NOW}", (("search", ARGUMENTS), ("now", {})), "First this."),
    ToolSample(CALL.partition("after")[0], (("search", '{"query": "'),)),
    ToolSample(PROSE, content=PROSE),
]


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_tool_parser(CARD, SAMPLES)
