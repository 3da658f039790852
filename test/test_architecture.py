"""Arrows point one way: cli -> nodes, sim, eval -> core; nodes never import nodes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "disguisor_ros"
ROS = {"rclpy", "sensor_msgs", "disguisor_msgs", "geometry_msgs", "std_msgs", "diagnostic_msgs",
       "visualization_msgs", "tf2_msgs", "builtin_interfaces"}  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def modules(folder):
    return sorted((SOURCE / folder).rglob("*.py"))


@pytest.mark.parametrize("path", modules("core"), ids=lambda p: p.stem)
def test_core_knows_neither_ros_nor_the_rest_of_the_package(path):
    for name in imports(path):
        assert name.split(".")[0] not in ROS
        if name.startswith("disguisor_ros"):
            assert name.startswith("disguisor_ros.core")


@pytest.mark.parametrize("path", modules("nodes"), ids=lambda p: p.stem)
def test_nodes_do_not_import_nodes(path):
    found = {n for n in imports(path) if n.startswith("disguisor_ros.nodes")}
    assert all(n.startswith("disguisor_ros.nodes.common.") for n in found)
    around = tuple(f"disguisor_ros.{n}" for n in ("graph", "security", "run", "sim", "eval"))
    assert not [n for n in imports(path) if n.startswith(around)]


@pytest.mark.parametrize("path", modules("sim") + modules("eval"), ids=lambda p: p.stem)
def test_figures_and_simulation_do_without_the_nodes(path):
    assert not [n for n in imports(path) if n.startswith("disguisor_ros.nodes")]


def test_every_field_of_every_message_is_described():
    for path in sorted((SOURCE.parent / "disguisor_msgs" / "msg").glob("*.msg")):
        described = False
        for line in path.read_text().splitlines():
            if not line.strip():
                described = False
            elif line.startswith("#"):
                described = True
            else:
                assert described, f"{path.name}: {line}"


@pytest.mark.parametrize(
    ("stage", "without"),
    [("synchronizer", {"scipy"}), ("smpl_fitter", {"scipy"}), ("head_registrar", {"scipy"}),
     ("pose3d", {"open3d", "scipy.optimize"}), ("face_renderer", {"dash", "scipy.optimize"})],
)  # fmt: skip
def test_stages_start_without_what_they_do_not_need(stage, without):
    """A stage that died is away for as long as it takes to start: scipy and dash took half."""
    code = (
        f"import sys, disguisor_ros.nodes.{stage}\n"
        "if 'renderer' in sys.argv[1]:\n"
        "    from disguisor_ros.core.rendering import make_backend\n"
        "    make_backend('open3d')\n"
        "    assert 'open3d' in sys.modules\n"
        "print(sys.modules.keys() & set(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, stage, *without]
    assert subprocess.check_output(command, text=True).strip() == "set()"


def test_open3d_leaves_the_real_notebook_libraries_to_those_who_want_them():
    code = (
        "from disguisor_ros.core.open3d_loader import load_open3d\n"
        "load_open3d()\n"
        "import sys\n"
        "assert not {'dash', 'plotly'} & sys.modules.keys()\n"
        "from plotly.graph_objects import Mesh3d\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
