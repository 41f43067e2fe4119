"""Functions that scripts call between two engines, under vLLM's import path."""

from dovetail.engine.offline.cleanup import (
    cleanup_dist_env_and_memory,
    destroy_distributed_environment,
    destroy_model_parallel,
)

__all__ = ["cleanup_dist_env_and_memory", "destroy_distributed_environment", "destroy_model_parallel"]
