"""Metadata by key, names by tables, and the order of rotary rows."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.api import ConfigError, Metadata, TableNaming, rotary_halves


class Oak(TableNaming):
    outer, inner, block = {"top": "model.norm"}, {"q": "attention.query"}, "ring"
    layers = "model.rings"


def test_names_go_by_tables() -> None:
    names = {"top.weight": "model.norm.weight", "ring.12.q.bias": "model.rings.12.attention.query.bias"}
    unknown = ("ring.1.k.weight", "ring.x.q.weight", "other.weight")
    assert {name: Oak().rename(name) for name in names} == names
    assert [Oak().rename(name) for name in unknown] == list(unknown)
    assert Oak().row_order("model.norm.weight", {}) is None


def test_metadata_are_read_by_key() -> None:
    keys = Metadata("BOX", "oak", {"oak.size": 8, "oak.heads": [4, 4], "oak.mixed": [1, 2], "elm.age": 3})
    assert (keys.require("size"), keys.get("heads"), keys.get("age"), keys.get("age", 5)) == (8, 4, None, 5)
    keys.expect("size", 8, "eight")
    keys.expect("age", 8, "eight")  # it is the default
    with pytest.raises(ConfigError, match=r"^the BOX metadata lacks the key oak\.age; convert the model again"):
        keys.require("age")
    with pytest.raises(ConfigError, match=r"^the BOX metadata says oak\.size = 8, wanted nine; this variant"):
        keys.expect("size", 9, "nine")
    with pytest.raises(ConfigError, match=r"oak\.mixed = \[1, 2\], wanted one value for all layers"):
        keys.get("mixed")


def test_rotary_rows_are_put_in_halves() -> None:
    heads, head_dim = 3, 8
    halves = np.arange(heads * head_dim)
    stored = halves.reshape(heads, 2, head_dim // 2).transpose(0, 2, 1).reshape(-1)  # as pairs
    assert (stored[list(rotary_halves(heads, head_dim))] == halves).all()
