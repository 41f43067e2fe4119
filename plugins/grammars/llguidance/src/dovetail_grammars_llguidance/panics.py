"""Panics of llguidance, which Python sees as errors that are no ``Exception``, become errors of the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dovetail.api import RequestError
from dovetail_grammars_llguidance.errors import PARAM
from dovetail_grammars_llguidance.messages import shorten_message


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """
    Raises:
        RequestError: what runs inside panicked.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # its class cannot be imported
            raise
        raise RequestError(
            f"the form cannot be used: llguidance fails on it ({shorten_message(str(error))})",
            "change or leave out what the message names",
            param=PARAM,
        ) from None
