"""LoRA adapters: how requests name them, and their slots on the device."""
