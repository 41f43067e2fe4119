"""The process that checks formats: ``python -P -m dovetail.engine.grammars.check_child TARGET``.

It reads one JSON object a line (``kind``, ``text``) and answers each with one: ``notices``, or ``problem`` and ``hint``
of the error, whether a backend is broken (``broken``), and what it raised (``cause``). With ``last`` it ends after this answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from typing import Any

from dovetail.api.errors import PluginError, RequestError
from dovetail.api.grammar import GrammarSource
from dovetail.kernel.discovery import import_dotted
from dovetail.utils.process_memory import release_free_memory, resident_bytes

BACKEND_FAILED = ("the grammar backend failed on this form", "ask for a simpler one; the server's log says more")
"""Problem and hint for a form on which a backend raises or panics. What it says is for the log."""
MAX_CPU_S = 3
"""Most time of the processor for one check. The kernel ends the process after it."""
MAX_BYTES = 448 << 20
"""Most memory that one check may take."""
STACK_BYTES = 512 << 20
"""What backends may reserve for a thread with a large stack, beside that; only what is used of it is memory."""
KEPT_BYTES = 128 << 20
"""A process that keeps more than this after a check is replaced."""


def main(target: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a backend prints is no answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        validate: Callable[[GrammarSource], Any] | PluginError = import_dotted(target)
    except PluginError as error:
        validate = error
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + MAX_BYTES + STACK_BYTES,) * 2)
    before = resident_bytes()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        answer = _answer(validate, line)
        release_free_memory()
        # A thread that still runs is one that a backend has given up on.
        answer["last"] = resident_bytes() - before > KEPT_BYTES or threading.active_count() > 1
        print(json.dumps(answer), file=answers, flush=True)
        if answer["last"]:
            os._exit(0)


def _answer(validate: Callable[[GrammarSource], Any] | PluginError, line: str) -> dict[str, Any]:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + MAX_CPU_S, resource.RLIM_INFINITY))
    if isinstance(validate, PluginError):
        return {"problem": validate.problem, "hint": validate.hint, "broken": True}
    try:
        return {"notices": list(validate(GrammarSource(**json.loads(line))) or ())}
    except RequestError as error:
        return {"problem": error.problem, "hint": error.hint}
    except MemoryError:
        return {"problem": f"checking the format takes more than {MAX_BYTES >> 20} MiB", "hint": "make it simpler"}
    except BaseException as error:  # a panic of an extension module is no Exception
        problem, hint = BACKEND_FAILED
        return {"problem": problem, "hint": hint, "cause": f"{type(error).__name__}: {error}"[:500]}


def _data_bytes() -> int:
    """Writable memory that this process has reserved, which is what ``RLIMIT_DATA`` counts."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1])
