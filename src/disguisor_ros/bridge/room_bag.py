"""Write a recording of a room with the topics and frames that the graph reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disguisor_ros.bridge.bags import LATCHED, BagWriter, typestore
from disguisor_ros.bridge.calibration import WORLD_FRAME
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.rotations import to_quaternion


class RoomBag:
    """A bag of a calibrated room.

    Parameters
    ----------
    path : path
        Folder of the bag, which must not exist.
    color : dict of str to Camera
        Colour cameras; their poses go to /tf_static.
    depth : dict of str to Camera, optional
        Depth cameras on optical frames of their own.
    start_ns : int
        Bag time of /tf_static.
    """

    def __init__(
        self,
        path: str | Path,
        color: dict[str, Camera],
        depth: dict[str, Camera] | None = None,
        start_ns: int = 0,
    ):
        self.color, self.depth = color, depth or {}
        self._types = typestore().types
        self.writer = BagWriter(path)
        transforms = [
            self._transform(camera, f"{name}_{kind}_optical_frame", start_ns)
            for kind, cameras in (("color", self.color), ("depth", self.depth))
            for name, camera in cameras.items()
        ]
        self.write(
            "/tf_static", "tf2_msgs/msg/TFMessage", start_ns, qos=(LATCHED,), transforms=transforms
        )

    def write(self, topic: str, typename: str, time_ns: int, qos=(), **fields) -> None:
        """Append a message made of fields."""
        self.writer.write(topic, typename, time_ns, self._types[typename](**fields), qos)

    def compressed_color(
        self, camera: str, stamp_ns: int, data: bytes, time_ns: int | None = None
    ):
        """Append a JPEG or PNG colour image and its camera_info."""
        jpeg = data[:2] == b"\xff\xd8"
        self.write(
            f"/{camera}/color/image_raw/compressed",
            "sensor_msgs/msg/CompressedImage",
            time_ns or stamp_ns,
            header=self._header(camera, "color", stamp_ns),
            format="jpeg" if jpeg else "png",
            data=np.frombuffer(data, dtype=np.uint8),
        )
        self._info(camera, "color", self.color[camera], stamp_ns, time_ns)

    def raw_color(
        self,
        camera: str,
        stamp_ns: int,
        image: np.ndarray,
        encoding="rgb8",
        time_ns: int | None = None,
    ):
        """Append a colour image, shape (height, width, 3) uint8, and its camera_info."""
        self._image(camera, "color", "color", stamp_ns, image, encoding, time_ns)
        self._info(camera, "color", self.color[camera], stamp_ns, time_ns)

    def raw_depth(
        self, camera: str, stamp_ns: int, depth_mm: np.ndarray, time_ns: int | None = None
    ):
        """Append a depth image in millimetres, shape (height, width) uint16, and its camera_info.

        Where the camera has no depth camera of its own the image is on the colour camera's grid.
        """
        frame = "depth" if camera in self.depth else "color"
        self._image(camera, "depth", frame, stamp_ns, depth_mm, "16UC1", time_ns)
        sensor = self.depth.get(camera, self.color[camera])
        self._info(camera, "depth", sensor, stamp_ns, time_ns, frame)

    def keypoints(
        self, camera: str, stamp_ns: int, keypoints: np.ndarray, time_ns: int | None = None
    ):
        """Append 2D keypoints, shape (P, 17, 3): x, y, score."""
        person = self._types["disguisor_msgs/msg/PersonKeypoints2D"]
        self.write(
            f"/{camera}/keypoints2d",
            "disguisor_msgs/msg/Keypoints2D",
            time_ns or stamp_ns,
            header=self._header(camera, "color", stamp_ns),
            skeleton="coco17",
            persons=[
                person(score=float(p[:, 2].mean()), keypoints=p.astype(np.float32).ravel())
                for p in keypoints
            ],
        )

    def close(self) -> None:
        """Finish the bag."""
        self.writer.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.writer.__exit__(kind, value, traceback)

    def _header(self, camera: str, kind: str, stamp_ns: int):
        return self._types["std_msgs/msg/Header"](
            stamp=self._time(stamp_ns), frame_id=f"{camera}_{kind}_optical_frame"
        )

    def _time(self, ns: int):
        return self._types["builtin_interfaces/msg/Time"](
            sec=int(ns // 1_000_000_000), nanosec=int(ns % 1_000_000_000)
        )

    def _image(self, camera, topic, frame, stamp_ns, image, encoding, time_ns):
        self.write(
            f"/{camera}/{topic}/image_raw",
            "sensor_msgs/msg/Image",
            time_ns or stamp_ns,
            header=self._header(camera, frame, stamp_ns),
            height=image.shape[0],
            width=image.shape[1],
            encoding=encoding,
            is_bigendian=0,
            step=image[0].nbytes,
            data=np.ascontiguousarray(image).view(np.uint8).ravel(),
        )

    def _info(self, camera, topic, sensor: Camera, stamp_ns, time_ns, frame=None):
        region = self._types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        self.write(
            f"/{camera}/{topic}/camera_info",
            "sensor_msgs/msg/CameraInfo",
            time_ns or stamp_ns,
            header=self._header(camera, frame or topic, stamp_ns),
            height=sensor.height,
            width=sensor.width,
            distortion_model=sensor.model,
            d=sensor.distortion if len(sensor.distortion) else np.zeros(5),
            k=sensor.matrix.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([sensor.matrix, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def _transform(self, camera: Camera, frame: str, stamp_ns: int):
        types = self._types
        x, y, z, w = map(float, to_quaternion(camera.tf_world_camera[:3, :3]))
        position = types["geometry_msgs/msg/Vector3"](*map(float, camera.center))
        return types["geometry_msgs/msg/TransformStamped"](
            header=types["std_msgs/msg/Header"](stamp=self._time(stamp_ns), frame_id=WORLD_FRAME),
            child_frame_id=frame,
            transform=types["geometry_msgs/msg/Transform"](
                translation=position, rotation=types["geometry_msgs/msg/Quaternion"](x, y, z, w)
            ),
        )
