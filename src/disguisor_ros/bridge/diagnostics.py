"""What the stages tell of themselves on /diagnostics."""

from __future__ import annotations

#: Before the name of a stage in the name of its status.
PREFIX = "disguisor: "

#: Before the name of a topic or camera in pose3d's values: what is to be looked at there.
DOUBT = "doubt: "


def stage_values(diagnostics) -> dict[str, dict[str, str]]:
    """Values by stage of a diagnostic_msgs/DiagnosticArray; what others tell is left out."""
    return {
        status.name.removeprefix(PREFIX): {v.key: v.value for v in status.values}
        for status in diagnostics.status
        if status.name.startswith(PREFIX)
    }
