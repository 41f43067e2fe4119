"""The interface that the routes need to render conversations. Tests use a fake with the same interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dovetail.engine.templates.calls import RenderCall
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt


class Renderer(Protocol):
    """Runs chat templates."""

    async def find_facts(self, template: str, patterns: Sequence[str] = ()) -> TemplateFacts:
        """The facts about a template.

        Args:
            patterns: regular expressions to look for in it.

        Raises:
            RequestError: the template is malformed, or takes too long.
        """
        ...

    async def render(self, call: RenderCall) -> RenderedPrompt:
        """Render a conversation.

        Raises:
            RequestError: the template is malformed, refuses the messages, fails on them, takes too long, or makes too
                much of them.
        """
        ...

    def abort(self, error: Exception) -> None:
        """End everything that is being rendered, and what is asked for later, with an error."""
        ...
