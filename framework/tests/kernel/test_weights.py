"""Formats and kernels for each stored type."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import dovetail
from dovetail.api import PluginError, QuantFormatCard, ResolutionError
from dovetail.kernel.plan import render
from dovetail.kernel.validation import describe_validation_errors

from . import fakes
from .fakes import format_, kernel
from .installation import configure, plan, weights

# Weights.


def test_each_type_has_its_format_and_kernels_in_order_of_rank(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    found = plan(
        folder,
        format_("packed", ("q4", "q8"), ("ints",), kinds=("linear", "head")),
        kernel("ints", "ints", rank=90, kinds=("linear",)),
        kernel("any", rank=0),
        kernel("absent", rank=100, probe=f"{fakes.__name__}:absent"),
        kernel("gpu", rank=100, devices=("gpu",)),
        kernel("half", rank=100, dtypes=("float16",)),
    )
    table = {(w.kind, w.type): (w.format.part.name, [k.name for k in w.kernels]) for w in found.weights}
    assert table == {
        ("linear", "float32"): ("dense", ["matmul", "any"]),
        ("head", "float32"): ("dense", ["matmul", "any"]),
        ("embedding", "float32"): ("dense", ["matmul", "any"]),
        ("linear", "q4"): ("packed", ["ints", "any"]),
        ("head", "q4"): ("packed", ["any"]),
    }
    (head,) = [w for w in found.weights if (w.kind, w.type) == ("head", "q4")]
    assert {r.name: r.reason for r in head.rejected} == {
        "absent": "there is no such device here",
        "gpu": "runs on gpu",
        "half": "takes activations in float16, not float32",
        "ints": "serves linear layers",
        "matmul": "takes dense",
    }
    assert {r.name: r.reason for r in head.format.rejected} == {"dense": "reads bfloat16, float32"}


def test_a_kernel_that_the_machine_or_the_dtype_keeps_out_is_told_once(folder: Path) -> None:
    weights(folder, float32=3, int64=1, q4=1)
    found = plan(
        folder,
        format_("packed", ("q4",), ("ints",), kinds=("linear", "head")),
        format_("strict", ("q4",), rank=40),
        kernel("any", rank=0),
        kernel("absent", rank=100, probe=f"{fakes.__name__}:absent"),
        kernel("other", "others"),
        kernel("half", "ints", rank=100, dtypes=("float16",)),
    )
    text = render(found)
    assert text.count("absent") == text.count("half") == 1
    assert re.search(r"^  not half \(.*\): takes activations in float16, not float32$", text, re.MULTILINE)
    assert re.search(r"^  for other weights or layers: other; ", text, re.MULTILINE)
    assert "\n\nbeside weights: 1 tensor of type int64 (scales" in text
    # The format's own reason, and of the others only those that might have read the type.
    assert re.search(
        r"type q4, 1 tensor\n  format       packed \(.*\): rank 50, highest of 2 that fit$", text, re.MULTILINE
    )
    assert re.search(
        r"  format       strict \(.*\): rank 40, for weights that are made of other tensors than packed reads$",
        text,
        re.MULTILINE,
    )
    assert "not strict" in text
    assert "not dense" not in text


def test_kernels_of_equal_rank_are_a_warning(folder: Path) -> None:
    weights(folder, float32=3)
    kernels = [kernel(name, rank=90, kinds=("linear", "head")) for name in ("beta", "alpha")]
    found = plan(folder, *kernels)
    (warning,) = found.warnings
    assert re.match(r"kernel alpha \(.*\) and kernel beta \(.*\) fit equally well; they are tried by name, ", warning)
    assert not plan(folder, kernels[0], kernel("gamma", rank=89)).warnings


def test_a_type_that_nobody_reads_is_refused(folder: Path) -> None:
    weights(folder, float32=3, q9=7)
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a format that reads 7 tensors of type 'q9' in .*, found nothing that fits \(dense: reads bfloat16, float32\); ",
    ):
        plan(folder)


def test_whole_numbers_beside_weights_are_left_to_the_model(folder: Path) -> None:
    weights(folder, bool=2, float32=3, int64=1, uint8=1)
    assert {w.type for w in plan(folder, format_("packed", ("int64",), methods=("awq",))).weights} == {"float32"}
    weights(folder, int64=4)
    with pytest.raises(ResolutionError, match="wanted a format that reads 4 tensors of type 'int64'"):
        plan(folder)


def test_types_of_installed_formats_that_nobody_reads_are_noted(folder: Path) -> None:
    """Their tensors may be weights, if the files lack their quantization_config."""
    weights(folder, float32=3, int32=6, int64=1)
    packed = format_("packed", ("int32",), methods=("gptq",))
    assert plan(folder, packed).unread_types == {"int32": ("packed",)}
    configure(folder, quantization_config={"quant_method": "gptq"})
    assert plan(folder, packed, kernel("any")).unread_types == {}


def test_a_type_of_floats_that_no_format_reads_is_told_as_such(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "fp8"})
    weights(folder, float32=3, float8_e4m3fn=2, float8_e5m2=1, int64=4)
    text = render(plan(folder, format_("small", ("float8_e4m3fn",), methods=("fp8",)), kernel("any")))
    assert "\nno format reads 1 tensor of type float8_e5m2: weights of it are refused" in text
    assert "\nbeside weights: 4 tensors of type int64 (scales" in text


def test_tensors_of_a_quantized_checkpoint_are_not_counted_as_weights(folder: Path) -> None:
    """Their scales may have any type, and only the built model knows which they are."""
    weights(folder, float32=3)
    told = " (scales, zero points, norms and biases among them are no weights)"
    small = format_("small", ("float8_e4m3fn",), methods=("fp8",))
    assert told not in render(plan(folder, small, kernel("any")))
    weights(folder, float32=3, float8_e4m3fn=2)
    configure(folder, quantization_config={"quant_method": "fp8"})
    text = render(plan(folder, small, kernel("any")))
    assert f"\ntype float32, 3 tensors{told}\n" in text
    assert f"\ntype float8_e4m3fn, 2 tensors{told}\n" in text


def test_a_name_from_a_file_is_never_that_of_a_distribution_to_install(folder: Path) -> None:
    """Whoever made the file may own a package of that name."""
    configure(folder, quantization_config={"quant_method": "evil"})
    weights(folder, int32=6)
    with pytest.raises(ResolutionError) as failure:
        plan(folder)
    assert "'evil'" in str(failure.value)
    assert not re.search(r"dovetail-\w+-evil|install evil", str(failure.value))


def test_no_message_makes_the_name_of_a_distribution() -> None:
    source = Path(dovetail.__file__).parent
    made = re.compile(r"install dovetail-[\w-]*\{")
    assert [str(file) for file in source.rglob("*.py") if made.search(file.read_text(encoding="utf-8"))] == []


def test_what_the_members_of_a_union_say_is_one_sentence() -> None:
    class Grouped(BaseModel):
        size: Literal[-1] | Annotated[int, Field(gt=0)]
        bits: dict[str, Annotated[int, Field(gt=0)]] = {}

    with pytest.raises(ValidationError) as failure:
        Grouped.model_validate({"size": 0, "bits": {"a": 0, "b": 0}})
    assert describe_validation_errors(failure.value.errors()) == (
        "size: Input should be -1, or greater than 0 (found 0); bits.a: Input should be greater than 0 (found 0); "
        "bits.b: Input should be greater than 0 (found 0)"
    )


def test_a_type_that_no_kernel_multiplies_is_refused(folder: Path) -> None:
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a kernel for linear layers of type 'float32' on cpu in float32, found none that fits "
        r"\(ints: takes ints\); install a kernel plugin that covers it$",
    ):
        plan(folder, parts={"kernel": kernel("ints", "ints")})


def test_a_method_that_nobody_reads_says_what_to_install(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    weights(folder, int32=6, float16=3)
    with pytest.raises(
        ResolutionError,
        match=r"^wanted a format for weights quantized by 'gptq', found awq; install a plugin that reads 'gptq'; the formats of this project are called dovetail-quant-NAME$",
    ):
        plan(folder, format_("awq", ("int32",), methods=("awq",)))
    with pytest.raises(ResolutionError, match="'gptq', found none; note that the broken plugin cracked may offer it"):
        plan(folder, broken="ValueError")


def test_a_method_decides_between_formats_of_one_type(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    weights(folder, int32=6, float32=3)
    found = plan(
        folder,
        format_("awq", ("int32",), methods=("awq",), rank=90),
        format_("gptq", ("int32",), methods=("gptq", "gptq_v2")),
        kernel("any"),
    )
    (linear,) = [w for w in found.weights if (w.kind, w.type) == ("linear", "int32")]
    assert linear.format.part.name == "gptq"
    assert {r.name: r.reason for r in linear.format.rejected} == {
        "awq": "reads checkpoints quantized by awq, not gptq",
        "dense": "reads bfloat16, float32",
    }


def test_a_format_of_a_method_is_not_for_plain_checkpoints(folder: Path) -> None:
    weights(folder, int32=6)
    with pytest.raises(ResolutionError, match="awq: reads checkpoints quantized by awq, not none"):
        plan(folder, format_("awq", ("int32",), methods=("awq",)))


def test_weights_that_are_not_as_the_configuration_says_are_refused(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq"})
    with pytest.raises(
        ResolutionError,
        match=r"^wanted weights quantized by 'gptq', as the configuration says, found tensors of type float32, which gptq cannot read; ",
    ):
        plan(folder, format_("gptq", ("int32",), methods=("gptq",)))


def test_a_required_format_wins_over_rank_and_leaves_other_types_alone(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    formats = (format_("packed", ("q4",), rank=90), format_("lean", ("q4",)), kernel("any"))
    found = [w.format.part.name for w in plan(folder, *formats).weights if w.kind == "linear"]
    assert found == ["dense", "packed", "lean"]  # a weight is read by the first whose tensors are there
    found = plan(folder, *formats, quantization="lean")
    assert {w.type: w.format.part.name for w in found.weights} == {"float32": "dense", "q4": "lean"}


def test_a_required_format_that_does_not_read_the_checkpoint_is_refused(folder: Path) -> None:
    with pytest.raises(ResolutionError) as caught:
        plan(folder, format_("packed", ("q4",)), quantization="packed")
    assert str(caught.value) == (
        "--quantization packed was asked for, but the checkpoint is read by dense; "
        "leave --quantization out, or give a checkpoint in that format"
    )


def test_a_required_format_that_is_not_there_says_what_is(folder: Path) -> None:
    with pytest.raises(
        ResolutionError,
        match=r"^--quantization awq was asked for, found the formats dense; install a plugin that offers the format 'awq'; the formats of this project are called dovetail-quant-NAME$",
    ):
        plan(folder, quantization="awq")


# Configurations.


class PackedConfig(BaseModel):
    model_config = ConfigDict(extra="allow")

    bits: int
    group_size: int = 128

    @field_validator("group_size")
    @classmethod
    def check_group(cls, value: int) -> int:
        if value > 1024:
            raise KeyError(value)  # no error that pydantic expects
        if value < 1:
            raise ValueError("groups have a size")
        return value


CONFIG = f"{__name__}:PackedConfig"


def packed(name: str = "packed", **claims: Any) -> QuantFormatCard:
    return format_(name, ("int32",), **{"methods": ("packed",), "config": CONFIG, **claims})


def quantized(folder: Path, **config: Any) -> None:
    configure(folder, quantization_config={"quant_method": "packed", **config})
    weights(folder, int32=6, float32=3)


def test_a_format_s_configuration_is_read_by_its_class(folder: Path) -> None:
    quantized(folder, bits=4, more=1)
    found = plan(folder, packed(), kernel("any"))
    by_type = {w.type: w for w in found.weights if w.kind == "linear"}
    config = found.build_quantization_config(by_type["int32"])
    assert isinstance(config, PackedConfig)
    assert (config.bits, config.group_size) == (4, 128)
    again = type(found).model_validate_json(found.model_dump_json())
    assert again.build_quantization_config(by_type["int32"]) == config
    assert found.build_quantization_config(by_type["float32"]) == {"quant_method": "packed", "bits": 4, "more": 1}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "packed: bits: is missing"),
        ({"bits": "four"}, r"packed: bits: Input should be a valid integer.* \(found 'four'\)"),
        ({"bits": 4, "group_size": 0}, r"packed: group_size: groups have a size \(found 0\)"),
    ],
)
def test_what_a_configuration_refuses_is_the_reason(folder: Path, config: dict[str, Any], reason: str) -> None:
    quantized(folder, **config)
    with pytest.raises(
        ResolutionError,
        match=rf"^wanted a format for weights quantized by 'packed', found none that fits \({reason}\); "
        "correct quantization_config",
    ):
        plan(folder, packed(), kernel("any"))


def test_a_format_that_refuses_the_configuration_is_rejected_with_its_reason(folder: Path) -> None:
    quantized(folder, group_size=64)
    other = packed("lenient", config=None, rank=10)
    (linear,) = [
        w for w in plan(folder, packed(), other, kernel("any")).weights if (w.kind, w.type) == ("linear", "int32")
    ]
    assert linear.format.part.name == "lenient"
    assert linear.config is None
    assert {r.name: r.reason for r in linear.format.rejected}["packed"] == "bits: is missing"


def test_a_format_that_was_asked_for_must_accept_the_configuration(folder: Path) -> None:
    quantized(folder)
    with pytest.raises(ResolutionError, match=r"found none that fits \(packed: bits: is missing\)"):
        plan(folder, packed(), kernel("any"), quantization="packed")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CONFIG, " failed to read the quantization_config with PackedConfig: KeyError: 2048 "),
        ("no_such_module:Config", ": cannot import no_such_module:Config: ModuleNotFoundError"),
        (f"{fakes.__name__}:NAMING", rf": {fakes.__name__}:NAMING is no subclass of pydantic\.BaseModel"),
    ],
)
def test_a_configuration_class_that_fails_is_its_format_s_fault(folder: Path, config: str, told: str) -> None:
    quantized(folder, bits=4, group_size=2048)
    bad = packed(config=config)
    for options in ({}, {"quantization": "packed"}):
        with pytest.raises(PluginError, match=rf"^the format packed \(more-0 1\.0\){told}.*--plugins=-more-0"):
            plan(folder, bad, kernel("any"), **options)
    found = plan(folder, bad, packed("lenient", config=None, rank=10), kernel("any"))
    assert [w.format.part.name for w in found.weights if (w.kind, w.type) == ("linear", "int32")] == ["lenient"]
    (_, warning) = found.warnings  # two kernels fit equally well
    assert re.match(rf"the format packed \(more-0 1\.0\){told}", warning)


def test_a_format_without_methods_whose_configuration_class_fails_is_named(folder: Path) -> None:
    weights(folder, float32=3, q4=2)
    needs = format_("needs", ("q4",), config=f"{__name__}:FailingConfig")
    for options in ({}, {"quantization": "needs"}):
        with pytest.raises(PluginError, match=r"^the format needs \(more-0 1\.0\) failed to read .*: SystemExit: 3"):
            plan(folder, needs, kernel("any"), **options)


class FailingConfig(BaseModel):
    @model_validator(mode="before")
    @classmethod
    def _fail(cls, data: Any) -> Any:
        fakes.leaving()


def test_a_format_without_methods_must_do_without_a_configuration(folder: Path) -> None:
    weights(folder, q4=2)
    needs = format_("needs", ("q4",), config=CONFIG)
    with pytest.raises(ResolutionError, match="needs: bits: is missing"):
        plan(folder, needs, kernel("any"))


def test_types_that_nobody_claims_are_left_to_the_formats_of_a_quantized_checkpoint(folder: Path) -> None:
    """Scales in 8-bit floats beside codes in integers."""
    quantized(folder, bits=4)
    weights(folder, int32=6, float32=3, float8_e8m0fnu=6, int16=1)
    assert {w.type for w in plan(folder, packed(), kernel("any")).weights} == {"float32", "int32"}
