"""Rotary embeddings in every form that published configurations have."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from dovetail.api import RopeParameters, read_rope, scaled_length

FULL, SLIDING, CHUNKED, LINEAR = "full_attention", "sliding_attention", "chunked_attention", "linear_attention"
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
LISTS = {"short_factor": [1.0, 1.5], "long_factor": [2, 4.0]}
THETA = {"rope_theta": 5e5}
X4 = {"rope_type": "linear", "factor": 4.0}
LENGTH = "original_max_position_embeddings"

ONE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "nulls": ({"rope_scaling": None, "rope_parameters": None, "rope_theta": None, "rotary_dim": None}, {}),
    "empty": ({"rope_scaling": {}, "rope_parameters": {}}, {}),
    "theta": (THETA, THETA),
    "theta, an integer": ({"rope_theta": 1000000}, {"rope_theta": 1e6}),
    "theta of other names": ({"rotary_emb_base": 25000}, {"rope_theta": 25000.0}),
    "linear": ({**THETA, "rope_scaling": {"type": "linear", "factor": 4}}, {**THETA, **X4}),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {"rope_type": "dynamic", "factor": 2.0}),
    "the newer key of the type": ({"rope_scaling": X4}, X4),
    "both keys of the type": ({"rope_scaling": {**X4, "type": "yarn"}}, X4),
    "one of them null": ({"rope_scaling": {"rope_type": None, "type": "linear", "factor": 4.0}}, X4),
    "nulls inside": ({"rope_scaling": {**X4, "beta_fast": None, "attention_factor": None}}, X4),
    "llama3": (
        {**THETA, "rope_scaling": {**LLAMA3, "rope_type": "llama3"}},
        {**THETA, **LLAMA3, "rope_type": "llama3"},
    ),
    "llama3, one bound": (
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0, "rope_type": "llama3"}},
        {**LLAMA3, "high_freq_factor": 1.0, "rope_type": "llama3"},
    ),
    "yarn": ({"rope_scaling": {**YARN, "type": "yarn", LENGTH: 4096}}, {**YARN, "rope_type": "yarn", LENGTH: 4096}),
    "yarn, not truncated": (
        {"rope_scaling": {"factor": 32.0, "rope_type": "yarn", "truncate": False}},
        {"rope_type": "yarn", "factor": 32.0, "truncate": False},
    ),
    "longrope": ({"rope_scaling": {"type": "longrope", **LISTS}}, {"rope_type": "longrope", **LISTS}),
    "su, its length beside": (
        {"rope_scaling": {"type": "su", **LISTS}, LENGTH: 4096},
        {"rope_type": "longrope", **LISTS, LENGTH: 4096},
    ),
    "a length inside and beside": (
        {"rope_scaling": {"type": "su", **LISTS, LENGTH: 2048.0}, LENGTH: 4096},
        {"rope_type": "longrope", **LISTS, LENGTH: 4096},
    ),
    "a length, and nothing that needs it": ({LENGTH: 4096, **THETA}, THETA),
    "the newer object": ({"rope_parameters": {**X4, **THETA}}, {**X4, **THETA}),
    "the newer object, theta beside it": ({"rope_parameters": X4, **THETA}, {**X4, **THETA}),
    "inside wins": ({"rope_parameters": {**X4, **THETA}, "rope_theta": 7.0}, {**X4, **THETA}),
    "both objects": (
        {"rope_parameters": {**YARN, **THETA, "rope_type": "yarn", "partial_rotary_factor": 0.5}, "rope_scaling": X4},
        {**X4, **THETA, "partial_rotary_factor": 0.5},
    ),
    "theta in the older object": ({"rope_scaling": {**X4, **THETA}, "rope_theta": 7.0}, {**X4, **THETA}),
    "mrope": (
        {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, **THETA},
        {**THETA, "sections": (16, 24, 24)},
    ),
    "mrope with both keys": (
        {"rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]}},
        {"sections": (16, 24, 24)},
    ),
    "mrope, interleaved and partial": (
        {
            "rope_parameters": {
                "mrope_interleaved": True,
                "mrope_section": [11, 11, 10],
                "rope_type": "default",
                "rope_theta": 10000000,
                "partial_rotary_factor": 0.25,
            }
        },
        {"rope_theta": 1e7, "partial_rotary_factor": 0.25, "sections": (11, 11, 10)},
    ),
    "partial": ({"partial_rotary_factor": 0.4}, {"partial_rotary_factor": 0.4}),
    "rotary_pct": (
        {"rotary_pct": 0.25, "rotary_emb_base": 10000},
        {"partial_rotary_factor": 0.25},
    ),
    "rope_pct": ({"rope_pct": 0.25}, {"partial_rotary_factor": 0.25}),
    "rotary_dim": ({"rotary_dim": 64, "head_dim": 256}, {"partial_rotary_factor": 0.25}),
    "rotary_dim, all": ({"rotary_dim": 64.0, "head_dim": 64}, {}),
    "others": ({"rope_scaling": {**X4, "finetuned": True, "high_precision_rope": 1}}, X4),
}


@pytest.mark.parametrize("case", ONE)
def test_one_rotary_embedding(case: str) -> None:
    data, expected = ONE[case]
    for layer_types in ((), (FULL,), (SLIDING, FULL), (LINEAR, CHUNKED)):
        found = read_rope(data, layer_types)
        assert found == {"": RopeParameters(**expected)}


TYPES: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, dict[str, Any]]]] = {
    "a base of windows, and a scaling": (
        {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
        (SLIDING, FULL),
        {"": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}, SLIDING: {}},
    ),
    "a base of windows, where there are none": (
        {"rope_theta": 1e6, "rope_local_base_freq": 1e3},
        (FULL,),
        {"": {"rope_theta": 1e6}},
    ),
    "a base of windows, which are all there is": (
        {"rope_theta": 1e6, "local_rope_theta": 1e3},
        (SLIDING,),
        {SLIDING: {"rope_theta": 1e3}},
    ),
    "global and local": (
        {"global_rope_theta": 160000.0, "local_rope_theta": 1e4, "partial_rotary_factor": 0.5},
        (FULL, SLIDING),
        {"": {"rope_theta": 160000.0, "partial_rotary_factor": 0.5}, SLIDING: {"partial_rotary_factor": 0.5}},
    ),
    "objects by type": (
        {"rope_parameters": {FULL: {**X4, "rope_theta": 1e6}, SLIDING: {"rope_type": "default", "rope_theta": 1e3}}},
        (SLIDING, FULL),
        {FULL: {**X4, "rope_theta": 1e6}, SLIDING: {"rope_theta": 1e3}},
    ),
    "objects by type, one unused and not understood": (
        {"rope_parameters": {FULL: {"rope_type": "spiral"}, SLIDING: {"rope_theta": 1e3}}},
        (SLIDING,),
        {SLIDING: {"rope_theta": 1e3}},
    ),
    "objects by type, theta beside them": (
        {"rope_parameters": {FULL: X4, SLIDING: {}}, **THETA, "partial_rotary_factor": 0.5},
        (SLIDING, FULL),
        {FULL: {**X4, **THETA, "partial_rotary_factor": 0.5}, SLIDING: {**THETA, "partial_rotary_factor": 0.5}},
    ),
    "objects by type, a base of windows beside them": (
        {"rope_parameters": {FULL: THETA}, "rope_local_base_freq": 1e3},
        (SLIDING, FULL),
        {FULL: THETA, SLIDING: {"rope_theta": 1e3}},
    ),
    "objects by type under the older key": (
        {"rope_scaling": {FULL: X4, SLIDING: {"type": "default"}}, **THETA},
        (SLIDING, FULL),
        {FULL: {**X4, **THETA}, SLIDING: THETA},
    ),
    "one for all types and one for one": (
        {"rope_parameters": {**THETA, FULL: X4}},
        (SLIDING, FULL, CHUNKED),
        {"": THETA, FULL: X4},
    ),
    "no windows, and a scaling over objects by type": (
        {"rope_parameters": {FULL: THETA, SLIDING: {"rope_theta": 1e3}}, "rope_scaling": X4},
        (SLIDING, FULL),
        {FULL: {**X4, **THETA}, SLIDING: {"rope_theta": 1e3}},
    ),
    "a state needs none": (
        {"rope_parameters": {FULL: THETA}},
        (LINEAR, FULL),
        {FULL: THETA},
    ),
}


@pytest.mark.parametrize("case", TYPES)
def test_rotary_embeddings_by_layer_type(case: str) -> None:
    data, layer_types, expected = TYPES[case]
    assert read_rope(data, layer_types) == {kind: RopeParameters(**values) for kind, values in expected.items()}


def test_without_layer_types_all_is_read() -> None:
    nested = {"rope_parameters": {FULL: THETA, SLIDING: X4, "main": {}}}
    assert set(read_rope(nested)) == {FULL, SLIDING, "main"}
    assert set(read_rope({"rope_local_base_freq": 1e3})) == {SLIDING, ""}


BY_TYPE = {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 1e4}}
DEFAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]] = {
    "flat": ({"rope_theta": 1e6, "partial_rotary_factor": 0.5}, {}, {"": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}}),
    "beside a scaling": ({"rope_theta": 1e6}, {"rope_scaling": X4}, {"": {**X4, "rope_theta": 1e6}}),
    "the file wins": ({"rope_theta": 1e6, "partial_rotary_factor": 0.5}, {"rope_theta": 7.0, "rotary_pct": 1.0}, {"": {"rope_theta": 7.0}}),
    "by type": (BY_TYPE, {}, {FULL: {"rope_theta": 1e6}, SLIDING: {}}),
    "by type, theta is of the others": (BY_TYPE, THETA, {FULL: THETA, SLIDING: {}}),
    "by type, a scaling is of the others": (BY_TYPE, {"rope_scaling": X4}, {FULL: {**X4, "rope_theta": 1e6}, SLIDING: {}}),
    "by type, windows in the file": (
        BY_TYPE,
        {"rope_local_base_freq": 7.0},
        {FULL: {"rope_theta": 1e6}, SLIDING: {"rope_theta": 7.0}},
    ),
    "by type, one in the file": (BY_TYPE, {"rope_parameters": {FULL: X4}}, {FULL: {**X4, "rope_theta": 1e6}, SLIDING: {}}),
}  # fmt: skip


@pytest.mark.parametrize("case", DEFAULTS)
def test_defaults_of_the_model(case: str) -> None:
    defaults, data, expected = DEFAULTS[case]
    found = read_rope(data, (SLIDING, FULL), defaults)
    assert found == {kind: RopeParameters(**values) for kind, values in expected.items()}


def scaling(**values: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, **values}}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', wanted an object"),
        ({"rope_parameters": []}, r"rope_parameters is \[\], wanted an object"),
        ({"rope_parameters": {FULL: 5}}, "rope_parameters' full_attention is 5, wanted an object"),
        ({"rope_parameters": {FULL: {}, SLIDING: None}}, "rope_parameters' sliding_attention is None, wanted an object"),
        ({"rope_theta": 1}, "^rope_theta is 1, wanted a number above 1 and at most 1e"),
        ({"rotary_emb_base": True}, "^rotary_emb_base is True, wanted a number above 1"),
        ({"rope_theta": math.inf}, "^rope_theta is inf, wanted"),
        ({"rope_theta": 1e16}, r"^rope_theta is 1e\+16, wanted"),
        ({"rope_theta": "10000"}, "^rope_theta is '10000', wanted"),
        ({"rope_parameters": {FULL: {"rope_theta": -1.0}}}, "^rope_parameters' full_attention's rope_theta is -1.0, wanted"),
        ({"rotary_pct": 1.5}, "^rotary_pct is 1.5, wanted a number above 0 and at most 1"),
        ({"rope_pct": 0}, "^rope_pct is 0, wanted a number above 0 and at most 1"),
        ({"rotary_dim": 64}, "^rotary_dim is a part of head_dim, which is None"),
        ({"rotary_dim": 64, "head_dim": 10**400}, "^rotary_dim is a part of head_dim, which is"),
        ({"rotary_dim": 65, "head_dim": 64}, "^rotary_dim is 65, wanted .* at most the head_dim 64"),
        ({"rotary_dim": True, "head_dim": 64}, "^rotary_dim is True, wanted"),
        ({"rotary_dim": "64", "head_dim": 64}, "^rotary_dim is '64', wanted"),
        ({"rope_scaling": {"type": ["linear"], "factor": 2}}, r"^rope_scaling's rope_type is \['linear'\], wanted one of default, linear"),
        ({"rope_scaling": {"type": "proportional"}}, "^rope_scaling's rope_type is 'proportional', wanted one of"),
        ({"rope_scaling": {"factor": 2.0}}, "^rope_scaling: it has the factor 2.0 and names no rope_type"),
        ({"rope_scaling": {"type": "linear"}}, "^rope_scaling: the type 'linear' lacks factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": None}}, "^rope_scaling: the type 'dynamic' lacks factor"),
        ({"rope_parameters": {FULL: {"type": "yarn"}}}, "^rope_parameters' full_attention: the type 'yarn' lacks factor"),
        ({"rope_scaling": {"type": "llama3", "factor": 8}}, "lacks low_freq_factor, high_freq_factor, original_max"),
        ({"rope_scaling": {**LLAMA3, "type": "llama3", "high_freq_factor": 0.5}}, "low_freq_factor is above high_freq_factor"),
        ({"rope_scaling": {"type": "mrope"}}, "^rope_scaling: the type 'mrope' lacks mrope_section"),
        ({"rope_scaling": {"type": "su", "long_factor": [1.0]}}, "^rope_scaling: of long_factor and short_factor there is only one"),
        ({"rope_scaling": {"type": "su", **LISTS, "long_factor": "x" * 4}}, "^rope_scaling's long_factor is 'xxxx', wanted a list"),
        ({"rope_scaling": {"type": "su", **LISTS, "short_factor": [0, 1]}}, r"^rope_scaling's short_factor is \[0, 1\], wanted a list"),
        ({"rope_scaling": {"type": "su", **LISTS, "short_factor": [1.0] * 9000}}, "^rope_scaling's short_factor is .*, wanted a list"),
        (scaling(factor="4.0"), "^rope_scaling's factor is '4.0', wanted a number above 0 and at most 134217728"),
        (scaling(factor=True), "^rope_scaling's factor is True, wanted"),
        (scaling(factor=math.nan), "^rope_scaling's factor is nan, wanted"),
        (scaling(factor=1e9), "^rope_scaling's factor is 1000000000.0, wanted"),
        (scaling(beta_fast=-1), "^rope_scaling's beta_fast is -1, wanted"),
        (scaling(truncate="no"), "^rope_scaling's truncate is 'no', wanted true or false"),
        (scaling(mrope_section=[16, 0]), r"^rope_scaling's mrope_section is \[16, 0\], wanted a list of whole numbers"),
        (scaling(original_max_position_embeddings="128"), "^rope_scaling's original_max_position_embeddings is '128', wanted a whole"),
        (scaling(original_max_position_embeddings=128.5), "original_max_position_embeddings is 128.5, wanted a whole number"),
        (scaling(original_max_position_embeddings=2**28), "original_max_position_embeddings is 268435456, wanted a whole number"),
        ({**scaling(), LENGTH: 0}, "^original_max_position_embeddings is 0, wanted a whole number above 0 and at most 134217728"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_rope(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"rope_parameters": {FULL: {}}}, "rope_parameters has full_attention, and nothing for the layers of the type"),
        ({"rope_scaling": {FULL: {}, CHUNKED: {}}}, "rope_scaling has chunked_attention, full_attention, and nothing"),
        ({"rope_parameters": {FULL: {}}, "rope_scaling": {CHUNKED: {}}}, "rope_parameters and rope_scaling has"),
    ],
)
def test_a_layer_type_of_which_nothing_is_said_is_refused(data: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_rope(data, (FULL, SLIDING))


def test_parameters_are_written_as_they_are_called() -> None:
    with pytest.raises(ValidationError, match="rope_thetta"):
        RopeParameters(rope_thetta=1e6)
    with pytest.raises(ValidationError, match="frozen"):
        RopeParameters().rope_theta = 5.0


@pytest.mark.parametrize("head_dim", [48, 64, 80, 96, 112, 128, 192, 256, 98, 6])
def test_a_number_of_channels_is_that_number_again(head_dim: int) -> None:
    for channels in range(2, head_dim + 1, 2):
        part = read_rope({"rotary_dim": channels, "head_dim": head_dim})[""].partial_rotary_factor
        assert int(head_dim * part) == channels


@pytest.mark.parametrize(
    ("parameters", "longest"),
    [
        ({}, 1000),
        (X4, 4000),
        ({**X4, LENGTH: 500}, 2000),
        ({**X4, LENGTH: 100}, 1000),
        ({"rope_type": "dynamic", "factor": 2.5}, 2500),
        ({"rope_type": "yarn", "factor": 1e7}, 2**27),
        ({**LLAMA3, "rope_type": "llama3"}, 1000),
        ({"rope_type": "longrope", "factor": 8.0, LENGTH: 500}, 1000),
    ],
)
def test_the_length_that_a_scaling_was_made_for(parameters: dict[str, Any], longest: int) -> None:
    assert scaled_length(1000, RopeParameters(**parameters)) == longest
