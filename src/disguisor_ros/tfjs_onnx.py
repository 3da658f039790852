"""Convert the heads of MoveNet MultiPose, a TensorFlow.js graph model, to ONNX.

A TF.js graph model is ``model.json`` (a frozen TensorFlow GraphDef as JSON plus a list of
weights) and the weights as raw little-endian arrays. Only the operators of those heads are known;
anything else is an error that names the operator. TensorFlow's int32 becomes int64, because that
is what ONNX wants for shapes and indices, so that no casts are needed.
"""

from __future__ import annotations

import base64
import json
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

#: Operators that mean the same in both worlds, element by element.
SAME = {"AddV2": "Add", "Mul": "Mul", "Sub": "Sub", "Shape": "Shape", "Sigmoid": "Sigmoid"}

#: How attributes of a node are written in JSON: base64 for text, decimals for 64 bit.
_PARSED = {"i": int, "b": bool, "s": lambda text: base64.b64decode(text).decode(), "type": str}


def convert(model_json: str | Path, outputs: dict[str, str]) -> onnx.ModelProto:
    """Convert a part of a TF.js graph model.

    Parameters
    ----------
    model_json : path
        The model; its weight files lie beside it.
    outputs : dict of str to str
        Name of an output in the ONNX model -> node of TensorFlow's graph.

    Returns
    -------
    onnx.ModelProto
        Tensors keep TensorFlow's types and layout (NHWC).

    Raises
    ------
    ValueError
        If the file is no graph model, its weights are short, or an operator is not known.
    """
    model_json = Path(model_json)
    model = json.loads(model_json.read_text())
    if model.get("format") != "graph-model" or "modelTopology" not in model:
        raise ValueError(f"{model_json}: not a TensorFlow.js graph model")
    converter = _Converter(_read_weights(model_json.parent, model["weightsManifest"]))
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
    for node in _needed(nodes, outputs.values()):
        converter.add(node)
    return converter.finish(model_json.stem, outputs)


def _read_weights(folder: Path, manifest: list[dict]) -> dict[str, np.ndarray]:
    weights = {}
    for group in manifest:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for spec in group["weights"]:
            stored = np.dtype(spec.get("quantization", {}).get("dtype", spec["dtype"]))
            count = int(np.prod(spec["shape"], dtype=int))
            if offset + count * stored.itemsize > len(data):
                raise ValueError(f"{folder / group['paths'][0]}: weights are cut short")
            array = np.frombuffer(data, stored, count, offset).reshape(spec["shape"])
            offset += count * stored.itemsize
            wide = np.int64 if spec["dtype"] == "int32" else np.float32
            weights[spec["name"]] = array.astype(wide)
    return weights


def _needed(nodes: dict[str, dict], outputs) -> list[dict]:
    """Nodes that the outputs need, each after its inputs."""
    inputs, stack = {}, list(outputs)
    while stack:
        name = stack.pop()
        if name not in inputs:
            inputs[name] = nodes[name].get("input", [])
            stack += inputs[name]
    return [nodes[name] for name in TopologicalSorter(inputs).static_order()]


def _attribute(node: dict, name: str):
    """Value of an attribute of a node, or list of values; an empty list where it has none."""
    found = node.get("attr", {}).get(name, {"list": {}})
    if "list" in found:
        return [_PARSED[kind](value) for kind, values in found["list"].items() for value in values]
    ((kind, value),) = found.items()
    return _PARSED[kind](value)


class _Converter:
    """Grows an ONNX graph node by node; a tensor keeps the name that TensorFlow gave it."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.constants = weights
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def finish(self, name: str, outputs: dict[str, str]) -> onnx.ModelProto:
        for output, tensor in outputs.items():
            if tensor != output:
                self.emit("Identity", [tensor], output)
        infos = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None) for out in outputs]
        used = {name for node in self.nodes for name in node.input}
        weights = [
            numpy_helper.from_array(array, key)
            for key, array in self.constants.items()
            if key in used
        ]
        graph = helper.make_graph(self.nodes, name, self.inputs, infos, weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )
        return onnx.shape_inference.infer_shapes(model)

    def emit(self, op: str, inputs: list[str], output: str = "", **attributes) -> str:
        """Add an ONNX node; its output gets a fresh name unless one is given."""
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(self, array, dtype) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype=dtype, order="C")
        return name

    def add(self, node: dict) -> None:
        op, name, inputs = node["op"], node["name"], node.get("input", [])
        if op in SAME:
            self.emit(SAME[op], inputs, name)
        elif op == "Cast":  # of pixels
            self.emit("Cast", inputs, name, to=TensorProto.FLOAT)
        elif op == "Placeholder":
            self.placeholder(node)
        elif op in ("_FusedConv2D", "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"):
            self.convolution(node, depthwise="Depthwise" in op)
        elif op == "ResizeBilinear":
            self.resize(node)
        elif op == "StridedSlice":
            self.strided_slice(node)
        elif op != "Const":
            raise ValueError(f"operator {op} (node {name}) is not known")

    def placeholder(self, node: dict) -> None:
        sizes = [int(dim["size"]) for dim in node["attr"]["shape"]["shape"]["dim"]]
        shape = [
            size if size >= 0 else free
            for size, free in zip(sizes, ("batch", "height", "width", "channels"))
        ]
        kind = TensorProto.INT32 if _attribute(node, "dtype") == "DT_INT32" else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(node["name"], kind, shape))

    def convolution(self, node: dict, depthwise: bool) -> None:
        image, weights, *bias = node["input"]
        weights = self.constants[weights]
        kernel, group = weights.shape[:2], 1
        if depthwise:  # (h, w, channels, multiplier) -> (h, w, 1, channels * multiplier)
            group = weights.shape[2]
            weights = weights.reshape(*kernel, 1, -1)
        image = self.emit("Transpose", [image], perm=[0, 3, 1, 2])
        out = self.emit(
            "Conv",
            [image, self.constant(weights.transpose(3, 2, 0, 1), np.float32), *bias],
            kernel_shape=kernel,
            strides=_attribute(node, "strides")[1:3],
            group=group,
            auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[_attribute(node, "padding")],
        )
        fused = _attribute(node, "fused_ops")
        if fused[len(bias) :] == ["Relu6"]:
            bounds = [self.constant(bound, np.float32) for bound in (0, 6)]
            out = self.emit("Clip", [out, *bounds])
        elif fused[len(bias) :] == ["Relu"]:
            out = self.emit("Relu", [out])
        elif fused != ["BiasAdd"] * len(bias):
            raise ValueError(f"fused operators {fused} (node {node['name']}) are not known")
        self.emit("Transpose", [out], node["name"], perm=[0, 2, 3, 1])

    def resize(self, node: dict) -> None:
        if not _attribute(node, "half_pixel_centers"):
            raise ValueError(f"node {node['name']} must resize by half pixel centers")
        image, size = node["input"]
        image = self.emit("Transpose", [image], perm=[0, 3, 1, 2])
        head = self.emit("Shape", [image], start=0, end=2)
        sizes = self.emit("Concat", [head, size], axis=0)
        out = self.emit(
            "Resize",
            [image, "", "", sizes],
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        self.emit("Transpose", [out], node["name"], perm=[0, 2, 3, 1])

    def strided_slice(self, node: dict) -> None:
        if any(_attribute(node, name) for name in node.get("attr", {}) if "mask" in name):
            raise ValueError(f"StridedSlice with a mask (node {node['name']}) is not known")
        data, begin, end, step = node["input"]
        axes = self.constant(np.arange(len(self.constants[begin])), np.int64)
        self.emit("Slice", [data, begin, end, axes, step], node["name"])
