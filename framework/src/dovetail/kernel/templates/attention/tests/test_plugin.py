"""The conformance kit on the backend's card."""

from __future__ import annotations

from dovetail.testing import check_attention, check_registration

import PLUGIN_MODULE

(CARD,) = PLUGIN_MODULE.dovetail_register_attention()


def test_registration() -> None:
    check_registration(PLUGIN_MODULE)


def test_every_claim() -> None:
    check_attention(CARD)
