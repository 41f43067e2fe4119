"""``dovetail plugins new``: a package with a small working plugin, and tests that pass from the start. Standard library
only.

The templates are in ``templates``: the files that all kinds share in ``common``, the others by kind. They are valid
Python, with placeholders in capitals for the plugin's own names.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dovetail.api.errors import UsageError


@dataclass(frozen=True)
class Template:
    """The texts for one kind of plugin.

    Attributes:
        summary: one line on what the generated plugin does.
        guide: where to begin changing it.
        use: how it is used, beside a model and the plugins that this one needs.
    """

    summary: str
    guide: str
    use: str


def _serve(options: str) -> str:
    return f"Beside a model and what it needs, it is chosen with `dovetail serve MODEL {options}`."


TEMPLATES: dict[str, Template] = {
    "model": Template(
        "The architecture PLUGIN_ARCHITECTURE",
        "A decoder to start from: put the keys of your `config.json` into `config.py`, your layers and their checkpoint names into "
        "`model.py`, and a comparison with the original implementation into the tests.",
        "To compare with the original implementation, `pip install transformers`, and name its class in the tests. With a loader and a "
        "backend beside it, `dovetail serve MODEL` takes it for a model whose `config.json` names PLUGIN_ARCHITECTURE.",
    ),
    "loader": Template(
        "A reader of weight files, PLUGIN_NAME",
        "It reads `.npz` archives to start from: say in `inspection.py` what stands in your files, and yield their tensors in "
        "`loading.py`.",
        _serve("--load-format PLUGIN_NAME"),
    ),
    "quant": Template(
        "The weight format PLUGIN_NAME",
        "It keeps 8 bits an element and a scale a row to start from: read your own tensors in `format.py`. The reference dequantization "
        "there makes it work on every device; a `QuantKernelCard` beside the format's makes it fast.",
        _serve("--quantization PLUGIN_NAME"),
    ),
    "attention": Template(
        "The attention backend PLUGIN_NAME",
        "It attends with torch's own kernel, request by request, to start from: put your cache layout and your kernels into "
        "`attention.py`.",
        _serve("--attention-backend PLUGIN_NAME"),
    ),
    "platform": Template(
        "The device platform PLUGIN_NAME",
        "It is torch's host device under another name to start from: put your device and its operations into `platform.py`, and what tells "
        "whether it is there into `probing.py`.",
        _serve("--device PLUGIN_NAME"),
    ),
    "grammar": Template(
        "The grammar backend PLUGIN_NAME",
        "It keeps outputs to a list of texts to start from: claim more forms on the card, compile them in `backend.py`, and refuse what does not "
        "compile in `validation.py`.",
        _serve("--structured-outputs-backend PLUGIN_NAME"),
    ),
    "proposer": Template(
        "The proposer PLUGIN_NAME",
        "It guesses that a token is followed by what followed it the last time, to start from: put your own guess into `proposer.py`, and its options "
        "into `config.py`.",
        _serve("""--speculative-config '{"method": "PLUGIN_NAME"}'"""),
    ),
    "logits-processor": Template(
        "The logits processor PLUGIN_NAME",
        "It forbids one token to start from: put what you do to logits into `processor.py`, and the arguments that requests may give into `config.py`.",
        'Requests name it: `"logits_processors": [{"name": "PLUGIN_NAME", "args": {"token": 5}}]`.',
    ),
    "tool-parser": Template(
        "The tool-call parser PLUGIN_NAME",
        "It finds JSON objects between tags to start from: put your marks, or another shape, into `parser.py`, and outputs of your model into the tests.",
        _serve("--tool-call-parser PLUGIN_NAME"),
    ),
    "reasoning-parser": Template(
        "The reasoning parser PLUGIN_NAME",
        "It finds reasoning between tags to start from: put your marks into `parser.py`, and outputs of your model into the tests.",
        _serve("--reasoning-parser PLUGIN_NAME"),
    ),
}
"""Kind → what ``dovetail plugins new KIND NAME`` makes."""

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
MAX_NAME = 32
ARCHITECTURE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MAX_ARCHITECTURE = 64


def scaffold(kind: str, name: str, directory: Path, architecture: str | None = None) -> Path:
    """Write the package ``dovetail-<kind>-<name>`` into a folder.

    Args:
        architecture: of a model, as in ``architectures`` of ``config.json``; one made from the name for None.

    Returns:
        The package's folder below ``directory``. It is created completely or not at all.

    Raises:
        UsageError: the kind is unknown, the name cannot be a package's, the architecture no model's, ``directory`` is
            not a folder, or the package exists already.
    """
    if kind not in TEMPLATES:
        raise UsageError(f"wanted a kind of plugin, found {kind!r}", f"kinds: {', '.join(TEMPLATES)}")
    check_name(name)
    if architecture is not None:
        check_architecture(kind, architecture)
    directory = Path(directory)
    if not directory.is_dir():
        raise UsageError(f"wanted a folder to write the package into, found none at {directory}", "make it first")
    target = directory / f"dovetail-{kind}-{name}"
    if target.exists():
        raise UsageError(f"{target} exists already", "choose another name, or move it away")
    words = substitutions(kind, name, architecture)
    draft = directory / f".{target.name}.{os.getpid()}"
    try:
        for path, text in template_files(kind):
            file = draft / substitute(path, words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(substitute(text, words), encoding="utf-8")
        draft.rename(target)
    except OSError as error:
        raise UsageError(f"cannot write {target} ({error.strerror or error})", "choose another folder") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def check_name(name: str) -> None:
    """Check that a package, a module and a card can have this name.

    Raises:
        UsageError: they cannot.
    """
    if NAME.fullmatch(name) and len(name) <= MAX_NAME:
        return
    likely = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
    likely = re.sub(r"^[0-9-]+", "", likely)[:MAX_NAME].rstrip("-")
    raise UsageError(
        f"wanted a name of lower-case letters, digits and single hyphens that begins with a letter and has at most {MAX_NAME} characters, "
        f"found {name!r}",
        f"for example {likely or 'my-plugin'}",
    )


def check_architecture(kind: str, architecture: str) -> None:
    """Check that a plugin of this kind can have an architecture, of this name.

    Raises:
        UsageError: it cannot.
    """
    if kind != "model":
        raise UsageError(f"--architecture is for the kind model, found {kind}", "leave it out")
    if not (ARCHITECTURE.fullmatch(architecture) and len(architecture) <= MAX_ARCHITECTURE):
        raise UsageError(
            "wanted an architecture of letters, digits and underscores that begins with a letter and has at most "
            f"{MAX_ARCHITECTURE} characters, found {architecture!r}",
            "give it as architectures in config.json has it, for example MyModelForCausalLM",
        )


def substitutions(kind: str, name: str, architecture: str | None = None) -> dict[str, str]:
    """Placeholder in the templates → its value."""
    template = TEMPLATES[kind]
    major, minor = importlib.metadata.version("dovetail").split(".")[:2]
    class_name = "".join(part.capitalize() for part in name.split("-"))
    words = {
        "PLUGIN_NAME": name,
        "PLUGIN_CLASS": class_name,
        "PLUGIN_ARCHITECTURE": architecture or f"{class_name}ForCausalLM",
        "PLUGIN_MODULE": f"dovetail_{kind}_{name}".replace("-", "_"),
        "PLUGIN_DISTRIBUTION": f"dovetail-{kind}-{name}",
        "PLUGIN_REQUIREMENT": f"dovetail~={major}.{minor}",
        "PLUGIN_FRAMEWORK": shlex.quote(framework_source() or f"dovetail~={major}.{minor}"),
    }
    texts = {"PLUGIN_SUMMARY": template.summary, "PLUGIN_GUIDE": template.guide, "PLUGIN_TRY": template.use}
    return words | {word: substitute(text, words) for word, text in texts.items()}


def framework_source() -> str | None:
    """What pip installs this framework from, if that is no index: a folder, a file, or a repository."""
    record = importlib.metadata.distribution("dovetail").read_text("direct_url.json")
    if record is None:
        return None
    origin = json.loads(record)
    url, vcs = origin["url"], origin.get("vcs_info")
    if vcs is not None:
        folder = f"#subdirectory={origin['subdirectory']}" if "subdirectory" in origin else ""
        return f"dovetail @ {vcs['vcs']}+{url}@{vcs['commit_id']}{folder}"
    return url2pathname(urlsplit(url).path) if url.startswith("file:") else f"dovetail @ {url}"


def substitute(text: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda match: words[match[0]], text)


def template_files(kind: str) -> Iterator[tuple[str, str]]:
    """(relative path, text) of every file of a kind's template."""
    root = files("dovetail.kernel") / "templates"
    for folder in (root / "common", root / kind):
        yield from _walk(folder, "")


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name == "__pycache__":
            continue
        if item.is_dir():
            yield from _walk(item, f"{prefix}{item.name}/")
        else:
            # Stored without its dot, so that it does not act on the templates themselves.
            name = re.sub(r"^dot_", ".", item.name)
            yield prefix + name, item.read_text(encoding="utf-8")
