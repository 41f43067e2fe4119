"""Registration, what the card accepts, and the conformance kit."""

from __future__ import annotations

import subprocess
import sys

import dovetail_models_transformers
import pytest
from dovetail_models_transformers.names import architectures, unsupported_reason

from dovetail.testing import check_registration


def test_registration() -> None:
    check_registration(dovetail_models_transformers)


def test_architectures_are_read_without_torch() -> None:
    assert architectures()["Olmo2ForCausalLM"] == "olmo2"
    assert len(architectures()) > 100
    code = "import sys; from dovetail_models_transformers.names import architectures; print(len(architectures()) > 100, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True False\n"


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        ("Olmo2ForCausalLM", {"model_type": "olmo2"}, None),
        ("NutForCausalLM", {"model_type": "nut"}, "has no NutForCausalLM among"),
        (
            "NutForCausalLM",
            {"model_type": "nut", "auto_map": {"AutoModel": "x"}},
            "code that comes with a checkpoint is not run",
        ),
        ("Olmo2ForCausalLM", {"model_type": "llama"}, "for the model_type 'olmo2', and config.json says 'llama'"),
        ("Olmo2ForCausalLM", {}, "config.json says None"),
    ],
)
def test_what_is_accepted(name: str, config: dict[str, object], told: str | None) -> None:
    reason = unsupported_reason(name, config)
    assert reason is None if told is None else told in str(reason)
