"""Reads which tensors a file of ``torch.save`` has, without torch and without running what the file asks for.

Such a file is a pickle, in which tensors refer to storages beside it. An unpickler that knows nothing but tensors,
storages and dictionaries describes it; anything else is refused.

Sources: ``torch.serialization`` for both layouts (a zip archive since torch 1.6; before, five pickles and the storages one
after the other), and the documentation of ``pickle`` on restricting what may be called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from dovetail.api import DOWNLOAD_AGAIN, CheckpointError, one_line, open_regular, quote_foreign

ZIP = b"PK\x03\x04"
MAX_PICKLE, MAX_NAME, MAX_DIMS, MAX_ELEMENTS = 2**26, 1024, 16, 2**60
"""Most bytes of the pickle, which has no numbers of tensors in a zip archive, and of what it describes."""
UNSAFE = "convert the checkpoint to safetensors where you trust it"
STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "ByteStorage": ("uint8", 1),
    "CharStorage": ("int8", 1),
    "ShortStorage": ("int16", 2),
    "IntStorage": ("int32", 4),
    "LongStorage": ("int64", 8),
    "BoolStorage": ("bool", 1),
}
"""Class of a storage → torch's name of the dtype, and bytes of an element."""
WRAPPERS = ("state_dict", "model", "module")
"""Keys under which training programs put the tensors."""


@dataclass(frozen=True)
class Storage:
    """Elements beside the pickle: dtype, bytes of an element, key and number of elements."""

    type: str
    size: int
    key: str
    elements: int


@dataclass(frozen=True)
class Described:
    """A tensor: torch's name of its dtype, and its shape."""

    type: str
    shape: tuple[int, ...]


class Dictionary(dict[Any, Any]):
    """What a saved dictionary becomes; unlike a plain one it may be given attributes, as torch's state dictionaries are."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], sizes: Mapping[str, int] | None) -> None:
        super().__init__(stream, encoding="utf-8")
        self.sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return Dictionary
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise _UnsafeError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, (dtype, size), key, _, elements, *_ = pid
        if kind != "storage" or not isinstance(key, str) or type(elements) is not int or elements < 0:
            raise ValueError(f"a storage is described as {quote_foreign(pid)}")
        if self.sizes is not None and self.sizes.get(key, -1) != elements * size:
            raise ValueError(
                f"the storage {quote_foreign(key)} has {self.sizes.get(key, 'no')} bytes, wanted {elements * size}"
            )
        return Storage(dtype, size, key, elements)

    @staticmethod
    def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Described:
        numbers = (offset, *shape, *strides)
        counts = all(type(n) is int and 0 <= n < MAX_ELEMENTS for n in numbers)
        if not isinstance(storage, Storage) or not counts or not len(shape) == len(strides) <= MAX_DIMS:
            raise ValueError(f"a tensor has the shape {quote_foreign(shape)} and strides {quote_foreign(strides)}")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= storage.elements:
            raise ValueError(f"a tensor of the shape {list(shape)} needs {last + 1} of {storage.elements} elements")
        return Described(storage.type, tuple(shape))


def _parameter(data: Any, *_: Any) -> Any:
    return data


class _UnsafeError(Exception):
    """The pickle asks for something that is no part of a tensor."""


def read_contents(file: str) -> tuple[dict[str, Described], str | None]:
    """The tensors of a file by name, and the key under which they are in it, or None.

    Raises:
        CheckpointError: the file cannot be read, is damaged, or is something else.
    """
    try:
        with open_regular(file) as stream:
            first = stream.read(len(ZIP))
            stream.seek(0)
            whole = _read_archive(file, stream) if first == ZIP else _read_old(stream)
    except _UnsafeError as error:
        raise CheckpointError(
            f"{file} asks for {quote_foreign(str(error))} to be called, wanted tensors alone", UNSAFE
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file} ({error.strerror})", "check the path and its permissions") from None
    except CheckpointError:
        raise
    except Exception as error:  # whatever damaged bytes make of a pickle or an archive
        raise CheckpointError(f"{file} is no file of torch.save ({_text(error)})", DOWNLOAD_AGAIN) from None
    return _tensors(file, whole)


def _text(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _read_archive(file: str, stream: IO[bytes]) -> Any:
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (pickled,) = (name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1)
        folder = pickled.removesuffix("data.pkl")
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise CheckpointError(f"{file} has its numbers in another byte order", UNSAFE)
        if entries[pickled].file_size > MAX_PICKLE:
            raise ValueError(f"its pickle has {entries[pickled].file_size} bytes, wanted at most {MAX_PICKLE}")
        data = f"{folder}data/"
        sizes = {name.removeprefix(data): e.file_size for name, e in entries.items() if name.startswith(data)}
        packed = [name for name, entry in entries.items() if entry.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise ValueError(f"{quote_foreign(packed[0])} is compressed, which torch.save never does")
        return _Unpickler(io.BytesIO(archive.read(pickled)), sizes).load()


def _read_old(stream: IO[bytes]) -> Any:
    """Magic number, version and platform, then what was saved; the storages are not looked at."""
    for _ in range(3):
        _Unpickler(stream, None).load()
    return _Unpickler(stream, None).load()


def _tensors(file: str, whole: Any) -> tuple[dict[str, Described], str | None]:
    wrapper = None
    if isinstance(whole, dict) and not _of(whole):
        wrapper = next((key for key in WRAPPERS if isinstance(whole.get(key), dict) and _of(whole[key])), None)
        whole = whole if wrapper is None else whole[wrapper]
    found = _of(whole) if isinstance(whole, dict) else {}
    if not found:
        raise CheckpointError(f"{file} has no tensors by name", "name the model's weight file or its folder")
    for name in found:
        if not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise CheckpointError(
                f"{file} names a tensor {quote_foreign(name)}, wanted 1 to {MAX_NAME} printable characters",
                DOWNLOAD_AGAIN,
            )
    return found, wrapper


def _of(values: Mapping[Any, Any]) -> dict[str, Described]:
    """The tensors of a dictionary; numbers of steps and the like are left out."""
    return {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, Described)}


def tensors_of(files: Sequence[str]) -> list[tuple[str, str, Described]]:
    """File, name and description of every tensor.

    Raises:
        CheckpointError: a file is damaged, or two have a tensor of one name.
    """
    found: dict[str, tuple[str, str, Described]] = {}
    for file in files:
        for name, tensor in read_contents(file)[0].items():
            if name in found:
                raise CheckpointError(
                    f"tensor {quote_foreign(name)} stands both in {found[name][0]} and in {file}",
                    "name the file to load, or remove the one that does not belong to the model",
                )
            found[name] = file, name, tensor
    return list(found.values())
