"""The plugin registers as the conformance kit asks."""

from __future__ import annotations

import dovetail_grammars_llguidance

from dovetail.testing import check_registration


def test_registration() -> None:
    check_registration(dovetail_grammars_llguidance)
