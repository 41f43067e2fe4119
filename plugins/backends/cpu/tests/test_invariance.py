"""The same bits in any company: every kernel and a whole model, by rows, chunks and batches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from cpu_tiny_model import CARD, CONFIG
from dovetail_backends_cpu import row_invariant as rows
from dovetail_backends_cpu.attention import SdpaAttention, span, span_end
from dovetail_backends_cpu.int4 import Int4Kernel
from dovetail_backends_cpu.platform import CpuPlatform
from dovetail_backends_cpu.probes import int4 as probe

from dovetail.nn import Ops, StoredWeight, WeightKernel
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DenseKernel, DenseWeight, DequantizeKernel
from dovetail.nn.ops import REFERENCES
from dovetail.testing import AffineSample, build_model, random_checkpoint, run_batch

CPU = torch.device("cpu")
DTYPES = ("float32", "bfloat16", "float16")
TOKENS = 2048
COUNTS = (*range(1, 71), 127, 128, 129, 500, 1000)
FEW = (1, 2, 3, 7, 16, 33, 70, 129, 1000)

pytestmark = pytest.mark.skipif(not CpuPlatform.batch_invariant, reason="this torch is built without oneDNN")


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def affine(n: int, k: int, bits: int, mins: bool) -> AffineSample:
    return AffineSample.random(n, k, bits=bits, group=32, mins=mins, signed=not mins)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("cls", "weight"),
    [
        (DenseKernel, DenseWeight.of(torch.randn(320, 576), "float32")),
        (DenseKernel, DenseWeight.of(torch.randn(37, 80), "float32")),
        (DequantizeKernel, affine(320, 576, 4, True)),
        (AffineKernel, affine(320, 576, 4, True)),
        (AffineKernel, affine(2100, 1024, 8, False)),  # in two slices
        (Int4Kernel, affine(320, 576, 4, True)),
        (Int4Kernel, affine(320, 1536, 8, False)),
    ],
    ids=["dense", "odd", "dequantize", "affine", "affine in slices", "int4", "int4 in two planes"],
)
def test_a_product_s_row_has_the_same_bits_in_any_company(
    cls: type[WeightKernel], weight: StoredWeight, dtype: str, threads: int
) -> None:
    if cls is Int4Kernel and (dtype != "bfloat16" or probe() is not None):
        pytest.skip(probe() or "it takes bfloat16 alone")
    kernel = cls(weight, "linear", CPU, getattr(torch, dtype))
    kernel.ops = Ops(CpuPlatform().operations())
    x = torch.randn(TOKENS, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    with torch.inference_mode():
        whole = kernel(x)
        for count in FEW if weight.shape[0] > 1000 else COUNTS:
            for start in {0, 5 * count % (TOKENS - count)}:
                alone = kernel(x[start : start + count])
                assert torch.equal(alone, whole[start : start + count]), f"{count} rows from {start} on"


ELEMENTWISE = sorted(set(rows.OPERATIONS) - {"linear", "linear_by_head", "lay_out"})


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("channels", [37, 1000, 20000])
def test_a_row_has_the_same_bits_wherever_threads_divide_the_tensor(name: str, channels: int) -> None:
    operation, reference = rows.OPERATIONS[name], REFERENCES[name]
    if name == "softcap":
        operation, reference = partial(operation, cap=3.0), partial(reference, cap=3.0)
    width = 2 * channels if name.endswith("_mul") else channels
    x = 4 * torch.randn(150, width, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    torch.set_num_threads(3)  # divides no power of two
    try:
        whole = operation(x)
        for count in (1, 2, 4, 19, 50, 149):
            assert torch.equal(operation(x[1 : 1 + count]), whole[1 : 1 + count]), f"{count} rows"
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(whole, reference(x), rtol=1e-4, atol=1e-4)


def test_products_are_computed_with_few_numbers_of_rows() -> None:
    counts = range(1, 2049)
    rounded = [rows.round_rows(count) for count in counts]
    assert rounded == sorted(rounded)
    assert len(set(rounded)) < 100  # for each, oneDNN makes code and keeps it
    assert all(count <= found <= max(count + 3, count * 17 / 16) for count, found in zip(counts, rounded, strict=True))
    assert all(rows.round_rows(found) == found for found in rounded)


@pytest.mark.parametrize("count", [0, 1, 5, 70])
def test_a_product_has_as_many_rows_as_its_input(count: int) -> None:
    x, weight = torch.randn(2, count, 64), torch.randn(33, 64)
    torch.testing.assert_close(rows.linear(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_a_processor_without_bfloat16_gets_the_product_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(9, 64).bfloat16(), torch.randn(33, 64).bfloat16()
    wanted = (x.float() @ weight.float().T).bfloat16()
    monkeypatch.setattr(rows, "is_row_invariant", lambda dtype, threads: False)
    found = rows.linear(x, weight)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(rows.linear(x[3:4], weight), found[3:4])


TILES = """
import os
import torch
from dovetail_backends_cpu.platform import CpuPlatform
from dovetail_backends_cpu.row_invariant import is_row_invariant, linear
if not hasattr(torch.cpu, "_is_amx_tile_supported") or not torch.cpu._is_amx_tile_supported():
    raise SystemExit("no tiles")
CpuPlatform()
torch.set_num_threads(2)
assert is_row_invariant(torch.bfloat16, 2)
generator = torch.Generator().manual_seed(0)
x, weight = (torch.randn(n, 2048, generator=generator).bfloat16() for n in (9, 5632))
with torch.inference_mode():
    whole = linear(x, weight)
    assert all(torch.equal(linear(x[:n], weight), whole[:n]) for n in range(1, 9))
"""


def test_a_processor_with_tiles_keeps_the_product_in_bfloat16() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in rows.ISA_VARIABLES}
    done = subprocess.run([sys.executable, "-c", TILES], env=environment, capture_output=True, text=True, timeout=120)
    if "no tiles" in done.stderr:
        pytest.skip("this processor has no tiles")
    assert done.returncode == 0, done.stderr


def test_what_the_user_lets_onednn_use_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rows.ISA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(rows.torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    rows.avoid_tiles()
    assert "ONEDNN_MAX_CPU_ISA" not in os.environ
    monkeypatch.delenv("DNNL_MAX_CPU_ISA")
    rows.avoid_tiles()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == rows.WITHOUT_TILES


def test_a_product_whose_rows_depend_on_their_number_does_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows.F, "linear", lambda x, weight: x @ weight.T + len(x))
    assert not rows.is_row_invariant.__wrapped__(torch.bfloat16, 1)


def test_the_keys_of_a_sum_follow_from_the_position() -> None:
    assert [span(p, None, 16) for p in (0, 63, 64, 300, 511, 512, 1023, 1024)] == [
        (0, 64), (0, 64), (0, 128), (0, 384), (0, 512), (0, 1024), (0, 1024), (0, 1536),
    ]  # fmt: skip
    for window in (1, 100, 128, 512, 4096):
        for position in (0, 99, 127, 128, 700, 5000):
            for size in (1, 16, 24, 256):
                first, keys = span(position, window, size)
                assert first % size == 0
                assert first <= max(0, position - window + 1) <= position < first + keys


@pytest.mark.parametrize("window", [None, 1, 2, 100, 128, 129, 700])
@pytest.mark.parametrize("size", [1, 16, 48, 256])
def test_neighbouring_tokens_of_one_span_end_where_the_next_begins(window: int | None, size: int) -> None:
    for position in range(2000):
        end = span_end(*span(position, window, size), window, size)
        assert span(end - 1, window, size) == span(position, window, size) != span(end, window, size)
        assert position < end


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_s_logits_have_the_same_bits_in_any_company(dtype: str, threads: int) -> None:
    model, ctx = build_model(
        CARD,
        CONFIG,
        random_checkpoint(CARD, CONFIG),
        dtype=dtype,
        attention=SdpaAttention,
        ops=Ops(CpuPlatform().operations()),
        block_size=16,
    )
    run = run_batch.__wrapped__  # on this test's number of threads
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(331, (n,), generator=generator).tolist() for n in (200, *range(3, 318, 5))]
    prompt = prompts[0]
    alone = run(model, ctx, [{0: prompt}])[0]
    crowd = range(1, len(prompts))
    chunks = [prompt[a:b] for a, b in ((0, 1), (1, 70), (70, 73), (73, 190), (190, 200))]
    ways = {
        "decoded": [{0: prompt[:190]}, *({0: [t]} for t in prompt[190:])],
        "in chunks": [{0: chunk} for chunk in chunks],
        "in a batch of 64": [
            {**{r: prompts[r] for r in crowd if r < 40}, 0: prompt[:199], **{r: prompts[r] for r in crowd if r >= 40}},
            {**{r: [7] for r in crowd if r < 20}, 0: prompt[199:], **{r: [r] for r in crowd if r >= 20}},
        ],
        "in chunks in a batch": [
            {5: prompts[5], 0: prompt[:31]},
            {6: prompts[6], 0: prompt[31:150], 5: [1]},
            {0: prompt[150:151], 7: prompts[7], 6: [2, 3]},
            {0: prompt[151:]},
        ],
    }
    for name, schedule in ways.items():
        assert torch.equal(run(model, ctx, schedule)[0], alone), name
