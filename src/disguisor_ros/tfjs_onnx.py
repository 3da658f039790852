"""Convert a TensorFlow.js graph model to ONNX.

A TF.js graph model is ``model.json`` (a frozen TensorFlow GraphDef as JSON plus a list of
weights) and the weights as raw little-endian arrays. Only the operators of the MoveNet family
are known; anything else is an error that names the operator. TensorFlow's int32 becomes int64,
because that is what ONNX wants for shapes and indices, so that no casts are needed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17

#: Operators that mean the same in both worlds, element by element.
SAME = {
    "Add": "Add", "AddV2": "Add", "AddN": "Sum", "Sub": "Sub", "Mul": "Mul", "RealDiv": "Div",
    "Minimum": "Min", "Maximum": "Max", "Sigmoid": "Sigmoid", "Relu": "Relu", "Exp": "Exp",
    "Abs": "Abs", "Sqrt": "Sqrt", "Reciprocal": "Reciprocal", "Less": "Less", "Equal": "Equal",
    "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "LogicalAnd": "And",
    "Select": "Where", "Identity": "Identity", "Shape": "Shape", "Size": "Size",
    "Range": "Range", "Tile": "Tile", "GatherNd": "GatherND", "Reshape": "Reshape",
}  # fmt: skip

CAST_TO = {
    "DT_FLOAT": TensorProto.FLOAT,
    "DT_INT32": TensorProto.INT64,
    "DT_INT64": TensorProto.INT64,
    "DT_BOOL": TensorProto.BOOL,
}


def convert(model_json: str | Path, outputs: dict[str, str] | None = None) -> onnx.ModelProto:
    """Convert a TF.js graph model.

    Parameters
    ----------
    model_json : path
        The model; its weight files lie beside it.
    outputs : dict of str to str, optional
        Name of an output in the ONNX model -> TensorFlow tensor; the model's own by default.

    Returns
    -------
    onnx.ModelProto
        Tensors keep TensorFlow's types and layout (NHWC); height and width of an image input are
        left free, since the graphs are fully convolutional.

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
    if outputs is None:
        outputs = {key: spec["name"] for key, spec in model["signature"]["outputs"].items()}
    for node in _sorted(nodes, [name.split(":")[0] for name in outputs.values()]):
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
            weights[spec["name"]] = array.astype(
                {"int32": np.int64, "float32": np.float32}.get(spec["dtype"], stored)
            )
    return weights


def _sorted(nodes: dict[str, dict], outputs: list[str]) -> list[dict]:
    """Nodes that the outputs need, each after its inputs."""
    done, order, stack = set(), [], list(outputs)
    while stack:
        name = stack[-1]
        inputs = [i.split(":")[0].lstrip("^") for i in nodes[name].get("input", [])]
        missing = [i for i in inputs if i not in done]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if name not in done:
            done.add(name)
            order.append(nodes[name])
    return order


class _Attributes:
    """Attributes of a GraphDef node in JSON."""

    def __init__(self, node: dict):
        self.values = node.get("attr", {})

    def integer(self, name: str) -> int:
        return int(self.values.get(name, {}).get("i", 0))

    def integers(self, name: str) -> list[int]:
        return [int(i) for i in self.values.get(name, {}).get("list", {}).get("i", [])]

    def flag(self, name: str) -> bool:
        return bool(self.values.get(name, {}).get("b", False))

    def text(self, name: str) -> str:
        return base64.b64decode(self.values.get(name, {}).get("s", "")).decode()

    def texts(self, name: str) -> list[str]:
        coded = self.values.get(name, {}).get("list", {}).get("s", [])
        return [base64.b64decode(text).decode() for text in coded]

    def dtype(self, name: str) -> int:
        return CAST_TO[self.values[name]["type"]]


class _Converter:
    """Grows an ONNX graph node by node; a tensor keeps the name that TensorFlow gave it."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.count = 0

    def finish(self, name: str, outputs: dict[str, str]) -> onnx.ModelProto:
        for output, tensor in outputs.items():
            if tensor.removesuffix(":0") != output:
                self.emit("Identity", [tensor.removesuffix(":0")], output)
        infos = [
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs
        ]
        used = {name for node in self.nodes for name in node.input}
        weights = [tensor for key, tensor in self.initializers.items() if key in used]
        graph = helper.make_graph(self.nodes, name, self.inputs, infos, weights)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
        )
        return onnx.shape_inference.infer_shapes(model)

    def emit(self, op: str, inputs: list[str], output: str | list[str] = "", **attributes):
        """Add an ONNX node; its output gets a fresh name unless one is given."""
        if not output:
            self.count += 1
            output = f"{op}_{self.count}"
        outputs = [output] if isinstance(output, str) else output
        attributes = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return output

    def constant(self, array, dtype=None) -> str:
        self.count += 1
        name = f"constant_{self.count}"
        self.initializers[name] = numpy_helper.from_array(
            np.ascontiguousarray(np.asarray(array, dtype=dtype)), name
        )
        return name

    def static(self, name: str) -> np.ndarray:
        """Value of a tensor that must be known at conversion."""
        if name not in self.weights:
            raise ValueError(f"tensor {name} must be a constant")
        return self.weights[name]

    def add(self, node: dict) -> None:
        op, name = node["op"], node["name"]
        inputs = [i.removesuffix(":0") for i in node.get("input", []) if not i.startswith("^")]
        for i in inputs:
            if i in self.weights and i not in self.initializers:
                self.initializers[i] = numpy_helper.from_array(self.weights[i].copy(), i)
        if op in SAME:
            self.emit(SAME[op], inputs, name)
        elif op in HANDLERS:
            HANDLERS[op](self, name, inputs, _Attributes(node))
        elif op != "Const":
            raise ValueError(f"operator {op} (node {name}) is not known")

    def placeholder(self, name, inputs, attributes):
        dims = attributes.values["shape"]["shape"]["dim"]
        shape = [int(dim["size"]) for dim in dims]
        if len(shape) == 4 and shape[3] == 3:
            shape[1:3] = ["height", "width"]
        dtype = attributes.values["dtype"]["type"]
        kind = TensorProto.INT32 if dtype == "DT_INT32" else TensorProto.FLOAT
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def convolution(self, name, inputs, attributes, depthwise):
        weights = self.static(inputs[1])
        kernel = list(weights.shape[:2])
        if depthwise:  # (h, w, channels, multiplier) -> (channels * multiplier, 1, h, w)
            group = weights.shape[2]
            weights = weights.reshape(*kernel, 1, -1)
        else:
            group = 1
        weights = weights.transpose(3, 2, 0, 1)
        image = self.emit("Transpose", [inputs[0]], perm=[0, 3, 1, 2])
        fused = attributes.texts("fused_ops")
        bias = inputs[2:3] if fused[:1] == ["BiasAdd"] else []
        out = self.emit(
            "Conv",
            [image, self.constant(weights), *bias],
            kernel_shape=kernel,
            strides=attributes.integers("strides")[1:3],
            dilations=attributes.integers("dilations")[1:3] or None,
            group=group,
            auto_pad=_padding(attributes),
        )
        activation = fused[1:] if bias else fused
        if activation == ["Relu6"]:
            bounds = [self.constant(bound, np.float32) for bound in (0, 6)]
            out = self.emit("Clip", [out, *bounds])
        elif activation == ["Relu"]:
            out = self.emit("Relu", [out])
        elif activation:
            raise ValueError(f"fused operators {fused} (node {name}) are not known")
        self.emit("Transpose", [out], name, perm=[0, 2, 3, 1])

    def max_pool(self, name, inputs, attributes):
        image = self.emit("Transpose", inputs, perm=[0, 3, 1, 2])
        out = self.emit(
            "MaxPool",
            [image],
            kernel_shape=attributes.integers("ksize")[1:3],
            strides=attributes.integers("strides")[1:3],
            auto_pad=_padding(attributes),
        )
        self.emit("Transpose", [out], name, perm=[0, 2, 3, 1])

    def resize(self, name, inputs, attributes):
        mode = "asymmetric"
        if attributes.flag("align_corners"):
            mode = "align_corners"
        elif attributes.flag("half_pixel_centers"):
            mode = "half_pixel"
        image = self.emit("Transpose", [inputs[0]], perm=[0, 3, 1, 2])
        head = self.emit("Shape", [image], start=0, end=2)
        sizes = self.emit("Concat", [head, inputs[1]], axis=0)
        out = self.emit(
            "Resize",
            [image, "", "", sizes],
            mode="linear",
            coordinate_transformation_mode=mode,
        )
        self.emit("Transpose", [out], name, perm=[0, 2, 3, 1])

    def cast(self, name, inputs, attributes):
        self.emit("Cast", inputs, name, to=attributes.dtype("DstT"))

    def squared_difference(self, name, inputs, attributes):
        difference = self.emit("Sub", inputs)
        self.emit("Mul", [difference, difference], name)

    def floor_divide(self, name, inputs, attributes):
        if attributes.dtype("T") == TensorProto.FLOAT:
            self.emit("Floor", [self.emit("Div", inputs)], name)
            return
        # Div truncates towards zero; Mod has the sign of the divisor, as FloorDiv needs.
        rest = self.emit("Mod", inputs)
        self.emit("Div", [self.emit("Sub", [inputs[0], rest]), inputs[1]], name)

    def strided_slice(self, name, inputs, attributes):
        begin, end, stride = (self.static(i) for i in inputs[1:4])
        masks = {
            kind: attributes.integer(f"{kind}_mask")
            for kind in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
        }
        if masks["ellipsis"]:
            raise ValueError(f"StridedSlice with an ellipsis (node {name}) is not known")
        axis, slices, new, shrink = 0, [], [], []
        for bit in range(len(begin)):
            has = {kind: bool(mask >> bit & 1) for kind, mask in masks.items()}
            if has["new_axis"]:
                new.append(bit)
                continue
            if has["shrink_axis"]:
                shrink.append(axis)
                last = begin[bit] + 1 if begin[bit] != -1 else np.iinfo(np.int64).max
                slices.append((axis, begin[bit], last, 1))
            elif not (has["begin"] and has["end"] and stride[bit] == 1):
                first = 0 if has["begin"] else begin[bit]
                last = np.iinfo(np.int64).max if has["end"] else end[bit]
                slices.append((axis, first, last, stride[bit]))
            axis += 1
        if new and shrink or (stride < 0).any():
            raise ValueError(f"StridedSlice of this kind (node {name}) is not known")
        out = inputs[0]
        if slices:
            axes, first, last, step = (self.constant(v, np.int64) for v in zip(*slices))
            out = self.emit("Slice", [out, first, last, axes, step])
        for op, where in (("Squeeze", shrink), ("Unsqueeze", new)):
            if where:
                out = self.emit(op, [out, self.constant(where, np.int64)])
        self.emit("Identity", [out], name)

    def pack(self, name, inputs, attributes):
        axis = attributes.integer("axis")
        where = self.constant([axis], np.int64)
        parts = [self.emit("Unsqueeze", [i, where]) for i in inputs]
        self.emit("Concat", parts, name, axis=axis)

    def unpack(self, name, inputs, attributes):
        axis, count = attributes.integer("axis"), attributes.integer("num")
        where = self.constant([axis], np.int64)
        parts = [f"{name}/part_{k}" for k in range(count)]
        self.emit("Split", inputs, parts, axis=axis)
        for k, part in enumerate(parts):
            self.emit("Squeeze", [part, where], f"{name}:{k}" if k else name)

    def split(self, name, inputs, attributes):
        axis = int(self.static(inputs[0]))
        count = attributes.integer("num_split")
        outputs = [f"{name}:{k}" if k else name for k in range(count)]
        self.emit("Split", [inputs[1]], outputs, axis=axis)

    def concat(self, name, inputs, attributes):
        self.emit("Concat", inputs[:-1], name, axis=int(self.static(inputs[-1])))

    def expand_dims(self, name, inputs, attributes):
        where = self.constant([int(self.static(inputs[1]))], np.int64)
        self.emit("Unsqueeze", [inputs[0], where], name)

    def squeeze(self, name, inputs, attributes):
        where = attributes.integers("squeeze_dims")
        self.emit("Squeeze", [*inputs, *([self.constant(where, np.int64)] if where else [])], name)

    def fill(self, name, inputs, attributes):
        self.emit("Expand", [inputs[1], inputs[0]], name)

    def top_k(self, name, inputs, attributes):
        k = self.constant(self.static(inputs[1]).reshape(1), np.int64)
        self.emit("TopK", [inputs[0], k], [name, f"{name}:1"])

    def arg_max(self, name, inputs, attributes):
        self.emit("ArgMax", inputs[:1], name, axis=int(self.static(inputs[1])), keepdims=0)

    def reduce(self, name, inputs, attributes, op):
        axes = self.static(inputs[1]).reshape(-1)
        keep = int(attributes.flag("keep_dims"))
        if op == "ReduceSum":
            self.emit(op, [inputs[0], self.constant(axes, np.int64)], name, keepdims=keep)
        else:  # until opset 18 the others take their axes as an attribute
            self.emit(op, inputs[:1], name, axes=axes.tolist(), keepdims=keep)


def _padding(attributes: _Attributes) -> str:
    padding = attributes.text("padding")
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding {padding} is not known")
    return {"SAME": "SAME_UPPER", "VALID": "VALID"}[padding]


HANDLERS: dict[str, Callable] = {
    "Placeholder": _Converter.placeholder,
    "Conv2D": lambda c, *a: c.convolution(*a, depthwise=False),
    "_FusedConv2D": lambda c, *a: c.convolution(*a, depthwise=False),
    "DepthwiseConv2dNative": lambda c, *a: c.convolution(*a, depthwise=True),
    "FusedDepthwiseConv2dNative": lambda c, *a: c.convolution(*a, depthwise=True),
    "MaxPool": _Converter.max_pool,
    "ResizeBilinear": _Converter.resize,
    "Cast": _Converter.cast,
    "SquaredDifference": _Converter.squared_difference,
    "FloorDiv": _Converter.floor_divide,
    "StridedSlice": _Converter.strided_slice,
    "Pack": _Converter.pack,
    "Unpack": _Converter.unpack,
    "Split": _Converter.split,
    "ConcatV2": _Converter.concat,
    "ExpandDims": _Converter.expand_dims,
    "Squeeze": _Converter.squeeze,
    "Fill": _Converter.fill,
    "TopKV2": _Converter.top_k,
    "ArgMax": _Converter.arg_max,
    "Max": lambda c, *a: c.reduce(*a, op="ReduceMax"),
    "Sum": lambda c, *a: c.reduce(*a, op="ReduceSum"),
}
