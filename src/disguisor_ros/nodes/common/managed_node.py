"""A lifecycle node with described parameters, whose callbacks no message can break."""

from __future__ import annotations

import os
import time
import traceback
from collections import Counter
from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from disguisor_ros.nodes.common.qos import NO_EVENTS

#: The same problem is logged again after this long, seconds.
LOG_EVERY_S = 5.0


class ManagedNode(LifecycleNode):
    """Listens and publishes while it is active; what goes wrong is counted and logged.

    Attributes
    ----------
    active : bool
    activated_s : float
        Monotonic time of the last activation.
    inputs : dict of str to Subscription
        What :meth:`listen` has subscribed.
    heard : dict of str to bool
        Whether each of the inputs has given anything since the activation.
    sender : bytes
        Who published the message that is being taken.
    drops : Counter
        How often what was dropped, by reason.
    last_problem : str
    steady : Clock
        For timers, which neither sim time nor a clock that is set may stop.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self.autostart = self.parameter(
            "autostart", True, "Configure and activate by itself; false leaves it to a manager."
        )
        self.active, self.activated_s = False, 0.0
        self.inputs: dict[str, Subscription] = {}
        self.heard: dict[str, bool] = {}
        self.sender = b""
        self.drops = Counter()
        self.last_problem = ""
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._outputs = []
        self._work_timer = None
        self._logged_s: dict[str, float] = {}

    # What subclasses override.

    def load(self) -> None:
        """Configure: load models; raise ValueError or OSError with a clear line if that fails."""

    def connect(self) -> None:
        """Activate: create subscriptions and publishers, with :meth:`listen`, :meth:`offer`."""

    def work(self) -> None:
        """Do what has become possible: called after each message and five times a second."""

    # Lifecycle.

    def on_configure(self, state):
        try:
            self.load()
        except (ValueError, OSError, ImportError) as error:
            self.get_logger().fatal(f"cannot be configured: {error}")
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state):
        self.connect()
        self._work_timer = self.create_timer(0.2, self.guarded(self.work), clock=self.steady)
        self.active, self.activated_s = True, time.monotonic()
        return super().on_activate(state)

    def on_deactivate(self, state):
        self.active = False
        self.destroy_timer(self._work_timer)
        for subscription in self.inputs.values():
            self.destroy_subscription(subscription)
        for publisher in self._outputs:
            self.destroy_publisher(publisher)
        self.inputs, self.heard, self._outputs = {}, {}, []
        return super().on_deactivate(state)

    def on_shutdown(self, state):
        if self.active:  # it went on for as long as its process lived
            self.on_deactivate(state)
        return super().on_shutdown(state)

    def destroy_node(self):
        super().destroy_node()
        # It would hold rclpy's node, and with it the middleware's shared memory, beyond the end.
        self._state_machine = None

    # Parameters and topics.

    def parameter(self, name: str, default, description: str, bounds: tuple | None = None):
        """Declare a parameter with a description and a range, and return its value."""
        descriptor = ParameterDescriptor(description=description, read_only=True)
        if bounds and isinstance(default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(bounds[0]), to_value=float(bounds[1]))
            ]
        elif bounds and isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1])]
        elif bounds:
            descriptor.additional_constraints = "one of " + ", ".join(bounds)
        value = self.declare_parameter(name, default, descriptor).value
        if bounds and isinstance(default, str) and value not in bounds:
            raise ValueError(f"parameter {name} is {value!r}, must be one of {', '.join(bounds)}")
        return value

    def duration_ns(self, name: str, default_s: float, description: str, bounds: tuple) -> int:
        """Declare a parameter in seconds and return its value in nanoseconds."""
        return int(1e9 * self.parameter(name, default_s, description, bounds))

    def listen(
        self, kind, topic: str, callback: Callable, qos: QoSProfile, raw=False
    ) -> Subscription:
        """Subscribe; a message that the callback refuses with ValueError is counted, not fatal."""
        self.heard[topic] = False
        take, work = self.guarded(callback, topic), self.guarded(self.work)

        def hear(message, about):
            self.heard[topic] = True
            self.sender = bytes((about.get("publisher_gid") or {}).get("data", b""))
            take(message)
            work()

        self.inputs[topic] = self.create_subscription(
            kind,
            topic,
            hear,
            qos,
            raw=raw,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=NO_EVENTS,
        )
        return self.inputs[topic]

    def offer(self, kind, topic: str, qos: QoSProfile):
        """Advertise a topic."""
        publisher = self.create_publisher(
            kind, topic, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._outputs.append(publisher)
        return publisher

    # Errors.

    def guarded(self, function: Callable, topic: str = "") -> Callable:
        """The function, with what it raises counted and logged: no message may stop a node."""

        def call(*args):
            if not self.active:  # deactivated while this was already on its way
                return None
            try:
                return function(*args)
            except ValueError as error:
                self.dropped("malformed", f"{topic}: {error}" if topic else str(error))
            except Exception as error:  # the node must outlive its bugs; the frame is withheld
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{os.path.basename(where.filename)}:{where.lineno}"
                self.dropped("internal error", f"{type(error).__name__} at {place}")

        return call

    def dropped(self, reason: str, detail: str = "", count: int = 1) -> None:
        """Count a drop, and log it now and then, each reason by itself: none hides another."""
        self.drops[reason] += count
        self.last_problem = detail or reason
        now = time.monotonic()
        if now - self._logged_s.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_s[reason] = now
            self.get_logger().warning(f"{reason}: {detail}" if detail else reason)
