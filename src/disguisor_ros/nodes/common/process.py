"""The process around a stage: how it starts, stops, and says why it could not go on."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn

from disguisor_ros.errors import MISCONFIGURED
from disguisor_ros.nodes.common.diagnostics import Deaf
from disguisor_ros.nodes.common.managed_node import ManagedNode
from disguisor_ros.shared_memory import avoiding_dead_ports, leave_no_core


def run_node(make: Callable[[], ManagedNode]) -> None:
    """Run a stage until it is told to stop; exits with 2 when it cannot work as configured."""
    leave_no_core()
    # Raw images are nobody's business outside this machine unless somebody says so.
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    try:
        rclpy.init()
    except RuntimeError as error:  # a parameter file or an argument that ROS does not take
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(MISCONFIGURED)
    code, node = 0, None
    try:
        with avoiding_dead_ports():
            node = make()
        if node.autostart:
            code = _start(node)
        if code == 0:
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ValueError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        code = MISCONFIGURED
    except Deaf as error:
        print(f"error: {error}; it ends, to be started anew", file=sys.stderr)
        code = 1
    except Exception:
        if rclpy.ok():  # else it was stopped in the middle of something
            traceback.print_exc()
            code = 1
    # The middleware's shared memory outlives a process that does not give it back.
    if node is not None:
        node.destroy_node()
    rclpy.try_shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Torch and Open3D tear down threads at exit in an order that can hang: leave at once.
    os._exit(code)


def _start(node: ManagedNode) -> int:
    success = TransitionCallbackReturn.SUCCESS
    if node.trigger_configure() != success:
        return MISCONFIGURED
    return 0 if node.trigger_activate() == success else 1
