"""Where our processes import modules from: never the working directory, where a folder of somebody else's is served.

It imports only what the interpreter has loaded already; at that time, everything else might still come from there.
"""

import os
import sys

PATH = "PYTHONPATH"
SAFE_PATH = "PYTHONSAFEPATH"
"""With this variable, Python does not put the working directory or the folder of a script on the path."""
_OURS = os.path.abspath(os.path.join(__file__, os.pardir, os.pardir))
"""The folder with the package ``dovetail``."""


def leave_working_directory() -> None:
    """Take the working directory off the path of this process, and of the processes that libraries start.

    ``python -m`` and ``python -c`` put it there, as does an empty element of ``PYTHONPATH``, which ``PYTHONPATH=:$MORE``
    has by accident. A ``.`` or its name in ``PYTHONPATH`` is somebody's wish, and is kept.
    """
    elements = [] if sys.flags.ignore_environment else os.environ.get(PATH, "").split(os.pathsep)
    environment = child_environment()
    os.environ.update(environment)
    if PATH not in environment:
        os.environ.pop(PATH, None)
    try:
        folder = os.getcwd()
    except OSError:  # it was deleted
        return
    if folder == _OURS:
        return
    if (sys.argv[0], sys.path[0]) in (("-m", folder), ("-c", "")) and not sys.flags.safe_path:
        del sys.path[0]
    wished = any(element and os.path.abspath(element) == folder for element in elements)
    if len(elements) > 1 and "" in elements and not wished:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", folder)]


def is_run_as_module(package: str) -> bool:
    """Whether the interpreter is about to run ``package``, or a module of it, with ``python -m``."""
    if sys.argv[:1] != ["-m"]:  # which is so until the module is found
        return False
    option = sys.orig_argv[-len(sys.argv)]  # NAME, or -mNAME
    name = option.partition("m")[2] if option.startswith("-") else option
    return name.partition(".")[0] == package


def python_command(*arguments: str) -> list[str]:
    """The command line of a child process with this interpreter, which does not import from the working directory.

    Args:
        arguments: such as ``-m``, a module, and its arguments. The process gets :func:`child_environment`.
    """
    flags = {"-E": sys.flags.ignore_environment, "-s": sys.flags.no_user_site, "-S": sys.flags.no_site}
    return [sys.executable, "-P", *(flag for flag, given in flags.items() if given), *arguments]


def child_environment(**changes: str) -> dict[str, str]:
    """The environment of a child process: this process's, and its own children do not import from the working
    directory either.

    Args:
        changes: further variables.
    """
    environment = {**os.environ, SAFE_PATH: "1", **changes}
    if elements := [element for element in environment.pop(PATH, "").split(os.pathsep) if element]:
        environment[PATH] = os.pathsep.join(elements)
    return environment
