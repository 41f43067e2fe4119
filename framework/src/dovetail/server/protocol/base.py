"""The base class of request bodies."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")

Items = Annotated[list[T], Field(fail_fast=True)]
"""A list. Its validation ends with its first wrong entry: a list of a million of them would make a million errors."""


class Body(BaseModel):
    """A part of a request. Unknown fields are stored separately, for :mod:`dovetail.server.protocol.extra_fields`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())
