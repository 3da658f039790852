"""TF.js graph models become ONNX models that compute the same; what is fetched is verified."""
# ruff: noqa: E402 (skips come first)

import argparse
import base64
import json

import numpy as np
import pytest

from disguisor_ros import pose_models
from disguisor_ros.errors import UserError

pytest.importorskip("onnx", reason="requirements-pose2d.txt is not installed")
ort = pytest.importorskip("onnxruntime", reason="requirements-pose2d.txt is not installed")

from disguisor_ros.tfjs_onnx import convert


def text(value):
    return {"s": base64.b64encode(value.encode()).decode()}


def node(name, op, *inputs, **attributes):
    return {"name": name, "op": op, "input": list(inputs), "attr": attributes}


def placeholder(shape, dtype="DT_FLOAT"):
    dims = [{"size": str(n)} for n in shape]
    return node("x", "Placeholder", shape={"shape": {"dim": dims}}, dtype={"type": dtype})


def write(folder, nodes, weights):
    """A graph model: nodes, and weights by name as arrays; float16 ones are quantized ones."""
    specs, data = [], b""
    for name, array in weights.items():
        nodes = [*nodes, node(name, "Const")]
        dtype = {"int64": "int32", "int32": "int32"}.get(array.dtype.name, "float32")
        array = array.astype(np.int32) if dtype == "int32" else array
        spec = {"name": name, "shape": list(array.shape), "dtype": dtype}
        if array.dtype == np.float16:
            spec["quantization"] = {"dtype": "float16"}
        specs.append(spec)
        data += array.tobytes()
    (folder / "model.bin").write_bytes(data)
    path = folder / "model.json"
    path.write_text(json.dumps({
        "format": "graph-model",
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["model.bin"], "weights": specs}],
    }))  # fmt: skip
    return path


def run(path, x):
    session = ort.InferenceSession(convert(path, {"y": "y"}).SerializeToString())
    return session.run(None, {"x": x})[0]


def test_convolution_pads_as_tensorflow_does(tmp_path):
    # 4 wide, stride 2, kernel 3: SAME pads one at the end only. A kernel of ones sums.
    convolution = node(
        "y", "_FusedConv2D", "x", "w", "b",
        strides={"list": {"i": ["1", "2", "2", "1"]}}, padding=text("SAME"),
        fused_ops={"list": {"s": [text("BiasAdd")["s"], text("Relu6")["s"]]}},
    )  # fmt: skip
    weights = {
        "w": np.ones((3, 3, 3, 1), np.float16) / 4,
        "b": np.array([-0.25], np.float32),
    }
    path = write(tmp_path, [placeholder((1, 4, 4, 3)), convolution], weights)
    x = np.zeros((1, 4, 4, 3), np.float32)
    x[0, :, :, 0] = 1.0
    # Sums of 3x3, 3x2, 2x3 and 2x2 pixels, over 4, less 0.25.
    np.testing.assert_allclose(run(path, x)[0, :, :, 0], [[2.0, 1.25], [1.25, 0.75]])
    np.testing.assert_allclose(run(path, 10 * x)[0, 0, 0], [6.0])


def test_depthwise_convolution(tmp_path):
    convolution = node(
        "y", "DepthwiseConv2dNative", "x", "w",
        strides={"list": {"i": ["1", "1", "1", "1"]}}, padding=text("VALID"),
    )  # fmt: skip
    weights = {"w": np.array([[[[1.0], [10.0], [100.0]]]], np.float32)}
    path = write(tmp_path, [placeholder((1, 2, 2, 3)), convolution], weights)
    x = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    np.testing.assert_allclose(run(path, x), x * (1, 10, 100))


def test_strided_slice(tmp_path):
    slicing = node("y", "StridedSlice", "x", "begin", "end", "step")
    weights = {"begin": np.array([1, 0]), "end": np.array([2, 3]), "step": np.array([1, 2])}
    path = write(tmp_path, [placeholder((2, 3)), slicing], weights)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(run(path, x), x[1:2, ::2])


def test_what_cannot_be_converted_is_named(tmp_path):
    path = write(tmp_path, [placeholder((1,)), node("y", "MysteryOp", "x")], {})
    with pytest.raises(ValueError, match="operator MysteryOp .node y."):
        convert(path, {"y": "y"})
    masked = node("y", "StridedSlice", "x", shrink_axis_mask={"i": "1"})
    with pytest.raises(ValueError, match="StridedSlice with a mask .node y."):
        convert(write(tmp_path, [placeholder((1,)), masked], {}), {"y": "y"})
    path = write(tmp_path, [placeholder((1,)), node("y", "AddV2", "x", "w")], {"w": np.ones(3)})
    (tmp_path / "model.bin").write_bytes(b"1234")
    with pytest.raises(ValueError, match="model.bin: weights are cut short"):
        convert(path, {"y": "y"})
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a TensorFlow.js graph model"):
        convert(path, {"y": "y"})


def test_a_changed_download_is_not_used():
    with pytest.raises(UserError, match=r"movenet-multipose.bin has SHA-256 .* not used"):
        pose_models._check_digest("movenet-multipose.bin", b"something else")


def test_a_model_that_answers_otherwise_is_refused():
    def nobody(image, side):
        return np.zeros((0, 17, 3)), np.zeros(0)

    def shifted(image, side):
        pose = np.zeros((1, 17, 3))
        pose[0, :7] = pose_models.REFERENCE_POSE
        pose[0, :7, :2] = (pose[0, :7, :2] + 2) * (512 / 218, 600 / 256) - 0.5
        return pose, np.array([pose_models.REFERENCE_SCORE])

    for model, reason in ((nobody, "0 people"), (shifted, "off by 2.00 pixels")):
        with pytest.raises(UserError, match=reason):
            pose_models.verify_movenet(model)


def test_the_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("DISGUISOR_MODELS", str(tmp_path))
    assert pose_models.default_model().parent == tmp_path


def test_without_npm_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("DISGUISOR_MODELS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is needed"):
        pose_models.main(argparse.Namespace(force=False))
    assert not list(tmp_path.glob("*.onnx"))
