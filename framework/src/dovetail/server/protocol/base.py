"""What the models of all bodies have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """Part of a request. Fields that it does not have are kept apart, for :mod:`dovetail.server.protocol.extra_fields`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())
