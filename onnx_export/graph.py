"""An ONNX graph under construction: nodes in order, each constant once."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 10
"""Read by every ONNX Runtime since 1.18."""
MICROSOFT = "com.microsoft"
"""ONNX Runtime's own operators."""

Array = NDArray[np.generic]


class Graph:
    """Nodes and initialisers; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array) -> str:
        """Add an initialiser unless it is there; its name."""
        self.tensors.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        """An int64 initialiser (N,), for shapes and axes."""
        return self.constant("ints." + ".".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number.{value!r}", np.array(value, np.float32))

    def node(
        self,
        op: str,
        inputs: list[str],
        outputs: str | list[str],
        domain: str = "",
        **attributes: float | str | list[int],
    ) -> str:
        """Append a node; the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else outputs
        added = helper.make_node(op, inputs, names, f"{op}:{names[0]}", domain=domain)
        added.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(added)
        return names[0]

    def cut(self, x: str, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
        """`x[..., start:end:step]` on an axis."""
        limits = [self.ints(start), self.ints(end), self.ints(axis), self.ints(step)]
        return self.node("Slice", [x, *limits], name)

    def transposed(self, x: str, name: str) -> str:
        """(N, A, B, C) -> (N, B, A, C)."""
        return self.node("Transpose", [x], name, perm=[0, 2, 1, 3])

    def quantised(self, x: str) -> list[str]:
        """Value, scale and zero point of an activation that several matrices read."""
        names = [f"{x}.q", f"{x}.q_scale", f"{x}.q_zero"]
        self.node("DynamicQuantizeLinear", [x], names)
        return names

    def model(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
        ir_version: int = IR_VERSION,
    ) -> onnx.ModelProto:
        """The whole as a model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializer=list(self.tensors.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def open_graph(model: onnx.ModelProto | bytes) -> onnxruntime.InferenceSession:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
