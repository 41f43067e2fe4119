"""Without a GPU, Triton's kernels run in its interpreter."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Read when a kernel is defined, so before the modules with kernels are imported.
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        from triton.runtime import interpreter
    except ImportError:
        pass
    else:
        _patch_tensor = interpreter._patch_lang_tensor

        def _patch_with_index(tensor, scope):  # type: ignore[no-untyped-def]
            """numpy 2.4 converts no array with a dimension to an integer, as loop bounds are held here."""
            _patch_tensor(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

        interpreter._patch_lang_tensor = _patch_with_index
