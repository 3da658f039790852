"""Markers for RViz: stable ids, explicit deletion, short lifetime."""

from __future__ import annotations

import colorsys
from functools import cached_property

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from disguisor_ros.core.open3d_loader import load_open3d

#: RViz drops a marker that was not renewed for this long, seconds.
LIFETIME_S = 1


def coarse_triangles(vertices: np.ndarray, triangles: np.ndarray, count: int) -> np.ndarray:
    """About ``count`` triangles over a subset of a mesh's own vertices, shape (F, 3).

    A marker is built point by point in Python: 1000 triangles take milliseconds, a whole body a
    fifth of a second.
    """
    from scipy.spatial import cKDTree  # heavy as Open3D: needed only where markers are made

    o3d = load_open3d()
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(triangles)
    )
    coarse = mesh.simplify_quadric_decimation(count)
    _, nearest = cKDTree(vertices).query(np.asarray(coarse.vertices))
    corners = nearest[np.asarray(coarse.triangles)]
    a, b, c = corners.T
    return corners[(a != b) & (b != c) & (c != a)]


class MeshMarkers:
    """One mesh a track, in one namespace.

    Parameters
    ----------
    namespace : str
    vertices : ndarray, shape (V, 3)
        Of the mesh in some pose.
    faces : ndarray, shape (F, 3), int
        Its triangles, of which about ``count`` are shown.
    count : int
    opacity : float
        0 to 1.
    """

    def __init__(self, namespace: str, vertices, faces, count: int, opacity: float):
        self.namespace, self.opacity = namespace, opacity
        self._mesh = vertices, faces, count
        self._shown: set[int] = set()

    @cached_property
    def _triangles(self) -> np.ndarray:
        """Made when somebody looks: a stage that died is back sooner without."""
        return coarse_triangles(*self._mesh)

    def message(self, header, meshes: dict[int, np.ndarray]) -> MarkerArray:
        """MarkerArray that shows these meshes and deletes those of tracks that have gone.

        Parameters
        ----------
        header : std_msgs/Header
        meshes : dict of int to ndarray, shape (V, 3), metres
            Vertices by track id.
        """
        out = MarkerArray()
        for track_id in self._shown - meshes.keys():
            marker = self._marker(header, track_id)
            marker.action = Marker.DELETE
            out.markers.append(marker)
        for track_id, vertices in meshes.items():
            marker = self._marker(header, track_id)
            marker.action = Marker.ADD
            marker.type = Marker.TRIANGLE_LIST
            marker.pose.orientation.w = 1.0
            marker.scale.x = marker.scale.y = marker.scale.z = 1.0
            marker.color = _color(track_id, self.opacity)
            marker.lifetime = Duration(sec=LIFETIME_S)
            corners = vertices[self._triangles.ravel()].astype(float).tolist()
            marker.points = [Point(x=x, y=y, z=z) for x, y, z in corners]
            out.markers.append(marker)
        self._shown = set(meshes)
        return out

    def _marker(self, header, track_id: int) -> Marker:
        return Marker(header=header, ns=self.namespace, id=int(track_id))


def _color(track_id: int, opacity: float) -> ColorRGBA:
    # Steps of the golden ratio keep the hues of neighbouring ids apart.
    r, g, b = colorsys.hsv_to_rgb(track_id * 0.618 % 1.0, 0.6, 0.95)
    return ColorRGBA(r=r, g=g, b=b, a=opacity)
