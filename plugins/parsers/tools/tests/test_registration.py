"""Registration is cheap, and every name on a card leads somewhere."""

from __future__ import annotations

import dovetail_parsers_tools

from dovetail.testing import check_registration


def test_registration() -> None:
    check_registration(dovetail_parsers_tools)
