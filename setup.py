"""ament_python package disguisor_ros; the repository's root is the package."""

from glob import glob

from setuptools import find_packages, setup

NAME = "disguisor_ros"
NODES = (
    "synchronizer",
    "pose3d",
    "smpl_fitter",
    "head_registrar",
    "face_renderer",
    "pose2d",
)

setup(
    name=NAME,
    version="0.1.0",
    package_dir={"": "src"},
    packages=find_packages("src", include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *(
            (f"share/{NAME}/{folder}", glob(f"{folder}/*.*"))
            for folder in ("launch", "config", "rviz")
        ),
    ],
    zip_safe=False,
    maintainer="Disguisor ROS team",
    maintainer_email="maintainers@disguisor.example",
    description="Every face in a multi-view RGB-D room, found in 3D and replaced in every camera",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "disguisor = disguisor_ros.cli:main",
            *(f"{node} = disguisor_ros.nodes.{node}:main" for node in NODES),
        ],
    },
)
