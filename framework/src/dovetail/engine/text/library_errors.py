"""What the ``tokenizers`` library raises, as errors that say whose fault it is: a file's, or a text's.

It raises bare ``Exception`` for what it checks. What it takes for granted makes it panic, which is a ``BaseException``
and would end a server's process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dovetail.api.errors import CheckpointError, DovetailError, RequestError
from dovetail.api.text import one_line
from dovetail.utils.panics import reraise_control_flow

MAX_REASON = 300
"""Characters of what the library says, which quotes files."""


@contextmanager
def explain_file_errors(file: Path) -> Iterator[None]:
    """While a file is read.

    Raises:
        CheckpointError: the library raised.
    """
    try:
        yield
    except DovetailError:
        raise
    except BaseException as error:
        reraise_control_flow(error)
        raise CheckpointError(
            f"{file} cannot be read: {_reason(error)}",
            "fetch it again; if it was made by a newer version, update the package tokenizers",
        ) from None


@contextmanager
def explain_text_errors() -> Iterator[None]:
    """While a request's text is encoded. Tokenizers without a token for what they do not know refuse some texts.

    Raises:
        RequestError: the library raised.
    """
    try:
        yield
    except (DovetailError, MemoryError):
        raise
    except BaseException as error:
        reraise_control_flow(error)
        raise RequestError(
            f"the model's tokenizer cannot encode this text ({_reason(error)})", "send another text"
        ) from error


def _reason(error: BaseException) -> str:
    return one_line(str(error).strip() or type(error).__name__, MAX_REASON)
