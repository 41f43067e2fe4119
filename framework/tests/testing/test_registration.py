"""check_registration: what passes, and what each broken plugin is told."""

import pytest

from dovetail.testing import check_registration


def test_the_framework_s_own_parts_register_well() -> None:
    check_registration("dovetail.builtin")


def test_a_small_plugin_registers_well() -> None:
    check_registration("kit_registers_well")


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("kit_imports_torch", ["importing and registering it imports torch"]),
        ("kit_is_slow", ["s of processor time, more than 0.25 s"]),
        ("kit_has_no_hook", ["implements no hook"]),
        ("kit_raises", ["this plugin is broken"]),
        ("no_such_module", ["no_such_module"]),
        (
            "kit_points_wrongly",
            [
                "model 'heavy': config kit_models:SmallConfig: importing it imports torch",
                "model 'no-config': config kit_config:Missing: cannot import",
                "model 'no-head': its target is not a subclass of dovetail.nn.CausalLM, which the task generate requires",
                "model 'not-config': its config is not a subclass of dovetail.api.ModelConfig",
                "format 'not-config': its config is not a subclass of pydantic.BaseModel",
                "attention 'not-attention': its target is not a subclass of dovetail.nn.AttentionBackend",
                "loader 'not-callable': inspect kit_config:TINY is not callable",
                "platform 'abstract': probe no_such_module:probe: cannot import",
                "platform 'abstract': its target lacks kv_cache_bytes, memory",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said(module: str, told: list[str]) -> None:
    with pytest.raises(AssertionError) as failure:
        check_registration(module)
    for text in told:
        assert text in str(failure.value)
