"""What each stage publishes and subscribes."""

#: Stage -> topics that it publishes, and those that it subscribes; ``{camera}`` stands for any
#: camera, in a renderer for its own. test/test_security.py holds this against the nodes.
STAGES = {
    "synchronizer": (
        ["/disguisor/frame_set", "/disguisor/skeleton"],
        [
            "/{camera}/anonymized/regions",
            "/{camera}/color/camera_info",
            "/{camera}/depth/camera_info",
            "/{camera}/keypoints2d",
        ],
    ),
    "pose3d": (
        ["/disguisor/persons3d"],
        [
            "/disguisor/frame_set",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
            "/{camera}/keypoints2d",
        ],
    ),
    "smpl_fitter": (
        ["/disguisor/bodies", "/disguisor/body_topology", "/disguisor/markers"],
        [
            "/disguisor/persons3d",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/keypoints2d",
        ],
    ),
    "head_registrar": (
        ["/disguisor/heads", "/disguisor/head_topology", "/disguisor/markers"],
        [
            "/disguisor/bodies",
            "/tf_static",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
        ],
    ),
    "face_renderer": (
        [
            "/{camera}/anonymized/image_raw",
            "/{camera}/anonymized/image_raw/compressed",
            "/{camera}/anonymized/camera_info",
            "/{camera}/anonymized/regions",
        ],
        [
            "/disguisor/heads",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/color/image_raw",
            "/{camera}/color/image_raw/compressed",
            "/{camera}/depth/camera_info",
            "/{camera}/depth/image_raw",
            "/{camera}/keypoints2d",
        ],
    ),
    "pose2d": (
        ["/{camera}/keypoints2d"],
        [
            "/disguisor/persons3d",
            "/tf_static",
            "/{camera}/color/camera_info",
            "/{camera}/color/image_raw",
            "/{camera}/color/image_raw/compressed",
        ],
    ),
}
