"""Heads put on the surface that depth cameras measured."""

from __future__ import annotations

from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.types import Body, DepthView, Head


class HeadRegistrar:
    """Registers each body's head to the depth near it.

    Parameters
    ----------
    template : HeadTemplate
    """

    def __init__(self, template: HeadTemplate):
        self.template = template

    def reset(self) -> None:
        """Forget all tracks."""

    def __call__(
        self, bodies: list[Body], depth: dict[str, DepthView], stamp_ns: int
    ) -> list[Head]:
        """Heads of all bodies; the body's own head where depth does not help."""
        return [body.head for body in bodies]
