"""Temporal filter on SE(3) for one head."""

from __future__ import annotations


class PoseFilter:
    """Placeholder until the filter lands."""
