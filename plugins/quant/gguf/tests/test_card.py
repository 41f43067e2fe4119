"""What the card says, and that saying it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import dovetail_quant_gguf
import gguf
import numpy as np
from dovetail_quant_gguf.types import TYPES

from dovetail.api import QuantFormatCard
from dovetail.testing import WeightSample, check_format

from .blocks import lazy, oracle, random_rows

FULL_PRECISION = {"f32", "f16", "bf16"}


def card() -> QuantFormatCard:
    (only,) = dovetail_quant_gguf.dovetail_register_quantization()
    return only


def test_every_type_on_the_card_is_read() -> None:
    assert set(card().types) == set(TYPES)


def test_affine_where_the_codes_are() -> None:
    affine = {name for name, packings in card().types.items() if "affine" in packings}
    assert affine == {name for name, layout in TYPES.items() if layout.affine_bits is not None}


def test_every_type_that_gguf_can_dequantize_is_on_the_card() -> None:
    readable = set()
    for type in gguf.GGMLQuantizationType:
        try:
            gguf.quants.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[type][1]), dtype=np.uint8), type)
        except NotImplementedError:
            continue
        readable.add(type.name.lower())
    assert readable - FULL_PRECISION <= set(card().types)


def test_conformance() -> None:
    samples = []
    for name in TYPES:
        data = random_rows(name, 7, 512)
        samples.append(WeightSample({".weight": lazy(name, data, (7, 512))}, oracle(name, data)))
    check_format(card(), samples, limit=0)


def test_registering_imports_nothing_heavy() -> None:
    code = (
        "import sys, dovetail_quant_gguf\n"
        "dovetail_quant_gguf.dovetail_register_quantization()\n"
        "print([m for m in ('torch', 'numpy', 'gguf') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_entry_point() -> None:
    from importlib.metadata import entry_points

    (found,) = [e for e in entry_points(group="dovetail.plugins") if e.module == "dovetail_quant_gguf"]
    assert found.load() is dovetail_quant_gguf
