"""What the stages tell of themselves while a bag is replayed."""

from __future__ import annotations

from dataclasses import dataclass, field

from disguisor_ros.bridge.bags import typestore
from disguisor_ros.bridge.diagnostics import DOUBT, stage_values


@dataclass
class StageReports:
    """What each stage reported last on /diagnostics.

    Parameters
    ----------
    connected : dict of str to bool
        Stage -> whether it is active and somebody publishes what it listens to.
    listens_to : dict of str to set of str
        Stage -> topics.
    waiting : dict of str to int
        Stage -> images that wait in it.
    stage_ms : dict of str to float
        Stage -> median time of its work.
    off_cm : dict of str to float
        Camera -> how far its calibration is off, as its renderer sees it.
    problems : dict of str to str
        Camera -> last problem of its renderer.
    doubts : dict of str to str
        Camera or topic -> why pose3d does not believe it.
    disagreement : str
        Why pose3d lets nothing of a camera, or of all, go out; empty while it does.
    """

    connected: dict[str, bool] = field(default_factory=dict)
    listens_to: dict[str, set[str]] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    stage_ms: dict[str, float] = field(default_factory=dict)
    off_cm: dict[str, float] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    disagreement: str = ""

    def take(self, raw: bytes) -> None:
        """Take over a message in CDR."""
        message = typestore().deserialize_cdr(raw, "diagnostic_msgs/msg/DiagnosticArray")
        for name, values in stage_values(message).items():
            self.connected[name] = values.get("connected") == "True"
            self.listens_to[name] = set(values.get("listens_to", "").split(","))
            self.waiting[name] = int(values.get("frames_waiting", 0))
            self.stage_ms[name] = float(values.get("duration_ms_median", 0.0))
            if "disagreement" in values:
                self.disagreement = self.disagreement or values["disagreement"]
                self.doubts = {
                    key.removeprefix(DOUBT): line
                    for key, line in values.items()
                    if key.startswith(DOUBT)
                }
            if "calibration_off_cm" in values:
                camera = name.removesuffix("/face_renderer")
                self.off_cm[camera] = float(values["calibration_off_cm"])
                if problem := values.get("last_problem"):
                    self.problems[camera] = problem

    def listeners(self, topic: str) -> int:
        """How many stages listen to a topic."""
        return sum(topic in topics for topics in self.listens_to.values())
