"""Registration is cheap, and every dotted name on the cards leads somewhere."""

import dovetail_loaders_mistral

from dovetail.testing import check_registration


def test_registration() -> None:
    check_registration(dovetail_loaders_mistral)
