"""The base class of request bodies."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A part of a request. Unknown fields are stored separately, for :mod:`dovetail.server.protocol.extra_fields`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())
