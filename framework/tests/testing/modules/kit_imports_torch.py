import torch  # noqa: F401
from kit_registers_well import dovetail_register_models  # noqa: F401
