"""What a stage tells of itself on /diagnostics, and whether it hears the others there."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import QoSCompatibility, qos_check_compatible

from disguisor_ros.bridge.diagnostics import PREFIX
from disguisor_ros.bridge.topics import STAGES
from disguisor_ros.nodes.common.qos import NO_EVENTS, RESULT

#: After this long without data a topic is reported.
SILENCE_S = 5.0
#: A stage that has reported so often and heard none of the others, who report as often, is deaf.
DEAF_REPORTS = 10


class Deaf(Exception):
    """Nothing reaches this process."""


class Diagnostics:
    """Reports once a second how a stage is.

    Parameters
    ----------
    node : StageNode
    """

    def __init__(self, node):
        self._node = node
        self._durations_ms, self._latencies_ms = deque(maxlen=100), deque(maxlen=100)
        self._done = self._done_before = 0
        self._unheard = 0
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", RESULT)
        node.create_subscription(
            DiagnosticArray, "/diagnostics", self.hear, RESULT, raw=True, event_callbacks=NO_EVENTS
        )
        node.create_timer(1.0, self.report, clock=node.steady)

    def finished(self, duration_ms: float, latency_ms: float) -> None:
        """Count a unit of work: how long it took, and how long since its input came."""
        self._done += 1
        self._durations_ms.append(duration_ms)
        self._latencies_ms.append(latency_ms)

    def hear(self, raw: bytes) -> None:
        """Take a report, in CDR, of this stage or another."""
        if f"{PREFIX}{self._path}".encode() not in raw:
            self._unheard = 0

    def report(self) -> None:
        """Publish how the stage is.

        Raises
        ------
        Deaf
            When none of the other stages has been heard for :data:`DEAF_REPORTS`.
        """
        node = self._node
        self._check_hearing()
        there = node.get_publishers_info_by_topic("/tf_static")
        node.rig.believe({bytes(publisher.endpoint_gid) for publisher in there})
        rate, self._done_before = self._done - self._done_before, self._done
        status = DiagnosticStatus(name=f"{PREFIX}{self._path}", hardware_id="disguisor")
        if not node.active:
            status.level, status.message = DiagnosticStatus.WARN, "inactive"
        elif silent := self._silent_topics():
            status.level, status.message = DiagnosticStatus.WARN, silent[0]
        else:
            status.level, status.message = node.health(rate)
        values = {
            "connected": node.active
            and all(node.count_publishers(t) for t in node.heard if not _optional(t)),
            "listens_to": ",".join(node.heard),
            "rate_hz": rate,
            "done": self._done,
            "duration_ms_median": _median(self._durations_ms),
            "latency_ms_median": _median(self._latencies_ms),
            "queue": len(node.rendezvous),
            **node.figures,
            **{f"dropped: {reason}": n for reason, n in sorted(node.drops.items())},
            "last_problem": node.last_problem,
        }
        status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = node.get_clock().now().to_msg()
        self._publisher.publish(message)

    @property
    def _path(self) -> str:
        return self._node.get_fully_qualified_name().lstrip("/")

    def _check_hearing(self) -> None:
        # Fast DDS, when several processes start anew at once, may take away the port that one of
        # them listens at; that one then hears nothing for ever, and only a new process does.
        others = [
            other
            for other in self._node.get_publishers_info_by_topic("/diagnostics")
            if other.node_name in STAGES and _path_of(other) != self._path
        ]
        self._unheard = self._unheard + 1 if others else 0
        if self._unheard > DEAF_REPORTS:
            raise Deaf(f"{self._path} hears none of the other stages")

    def _silent_topics(self) -> list[str]:
        node, out = self._node, []
        if time.monotonic() - node.activated_s < SILENCE_S:
            return out
        for topic, subscription in node.inputs.items():
            if node.heard[topic]:
                continue
            offers = node.get_publishers_info_by_topic(topic)
            if not offers and _optional(topic):
                continue
            if not offers:
                line = f"{topic}: no data, nobody publishes it"
            else:
                asked = subscription.qos_profile
                checks = [qos_check_compatible(o.qos_profile, asked) for o in offers]
                reasons = [why for result, why in checks if result == QoSCompatibility.ERROR]
                line = f"{topic}: no data from {len(offers)} publisher(s)" + (
                    f"; quality of service does not match: {reasons[0]}" if reasons else ""
                )
            node.get_logger().warning(line, throttle_duration_sec=30.0)
            out.append(line)
        return out


def _path_of(endpoint) -> str:
    return f"{endpoint.node_namespace}/{endpoint.node_name}".strip("/")


def _optional(topic: str) -> bool:
    """Whether a topic need not exist: a room without depth cameras is a room all the same."""
    return "/depth/" in topic


def _median(values) -> float:
    return round(float(np.median(values)), 2) if values else 0.0
