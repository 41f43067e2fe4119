import time

from kit_registers_well import dovetail_register_models  # noqa: F401

until = time.process_time() + 0.4
while time.process_time() < until:
    pass
