"""Runs the engine step by step: scheduler, batch, model runner, speculative decoding."""

from dovetail.utils.threads import import_torch

import_torch()  # the engine's first module that needs it: OpenMP is told how to wait before it is loaded, or never
