"""2D poses of people in colour images, with any of several ONNX models; and their queue."""

from disguisor_ros.core.pose2d.detector import PoseDetector, load_detector, regions_of
from disguisor_ros.core.pose2d.families import MODEL_TYPES, PoseModel, load_model

__all__ = [
    "MODEL_TYPES",
    "PoseDetector",
    "PoseModel",
    "load_detector",
    "load_model",
    "regions_of",
]
