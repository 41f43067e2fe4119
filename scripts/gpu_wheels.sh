#!/usr/bin/env bash
# Collect into .wheels/ what a machine without a network lacks to run Dovetail and its tests.
#
# The machine is expected to have Python 3.12 on Linux x86_64 with torch, transformers and what stands under PRESENT below. Versions are those of
# the active environment, so that both run the same code; our own packages are built from this checkout. On the machine:
#
#     python -m pip install --no-index --no-deps .wheels/*.whl
#
# usage: scripts/gpu_wheels.sh        (PYTHON names the interpreter of the environment; .venv's by default)
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
TARGET=.wheels
LIMIT_MIB=60
ROOTS="pydantic fastapi httpx2 uvicorn httptools pyzmq msgspec gguf llguidance openai rich pytest-timeout"
PRESENT="torch transformers tokenizers safetensors huggingface-hub accelerate numpy jinja2 tqdm pluggy packaging psutil pytest hypothesis"

# NAME==VERSION of the roots and of everything below them that is not there already.
requirements() {
  "$PYTHON" - "$ROOTS" "$PRESENT" <<'PYTHON'
import importlib.metadata
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

roots, present = (set(map(canonicalize_name, argument.split())) for argument in sys.argv[1:])
there = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "platform_system": "Linux"}
there |= {"os_name": "posix", "platform_machine": "x86_64", "platform_python_implementation": "CPython", "extra": ""}
found, pending = {}, sorted(roots)
while pending:
    name = pending.pop()
    if name in found or name in present:
        continue
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        found[name] = name  # not here: whatever version is offered
        continue
    found[name] = f"{name}=={distribution.version}"
    for text in distribution.requires or []:
        need = Requirement(text)
        if need.marker is None or need.marker.evaluate(there):
            pending.append(canonicalize_name(need.name))
print("\n".join(found[name] for name in sorted(found)))
PYTHON
}

rm -rf "$TARGET"
mkdir "$TARGET"
mapfile -t wanted < <(requirements)
[ "${#wanted[@]}" -gt 0 ] || { echo "cannot read the environment of $PYTHON; run make install" >&2; exit 1; }
"$PYTHON" -m pip download --disable-pip-version-check -q --no-deps --only-binary=:all: \
  --python-version 3.12 --implementation cp --abi cp312 --abi abi3 --abi none \
  --platform manylinux_2_34_x86_64 --platform manylinux_2_31_x86_64 --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any \
  -d "$TARGET" "${wanted[@]}"
for project in framework plugins/*/*/; do
  "$PYTHON" -m build --wheel --no-isolation --outdir "$TARGET" "$project" >/dev/null
done

ls -l "$TARGET" | awk 'NR > 1 { printf "%8.2f MiB  %s\n", $5 / 2^20, $9 }'
bytes=$(cat "$TARGET"/*.whl | wc -c)
awk -v bytes="$bytes" 'BEGIN { printf "%8.2f MiB  in all\n", bytes / 2^20 }'
if [ "$bytes" -gt $((LIMIT_MIB * 1024 * 1024)) ]; then
  echo "that is more than $LIMIT_MIB MiB" >&2
  exit 1
fi
