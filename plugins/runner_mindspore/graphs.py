"""MINDIR files, read as data: what in a graph MindSpore would execute beside arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from runner import ArtifactInfo

# Operators such as Custom load shared libraries that their attributes name, PyExecute runs Python.
_NAMES = """
Abs AdaptiveAvgPool2D Add AddN ArgMaxWithValue AvgPool BatchMatMul BatchNorm BatchNormExt BiasAdd
BroadcastTo Cast Chunk Clamp ClampScalar ClampTensor Concat Constant Conv2D Conv2DExt
Conv2DPadding Convolution Dense Depend DepthwiseConv2dNative Div Dropout DynamicShape Eltwise Elu
Equal Erf Exp ExpandDims Flatten FloorDiv FloorMod Gather GatherD GeLU Gelu GeluExt GroupNorm
HShrink HSigmoid HSwish Identity LayerNorm LayerNormExt LeakyReLU LeakyReLUExt Linear Load Log
LogSoftmax MakeTuple MatMul MatMulExt MaxPool MaxPoolV2 MaxPoolWithIndices MaxPoolWithMask Maximum
MeanExt Minimum Mish Mul Neg OnesLike PReLU Pad PadV3 Partial Pow RealDiv ReduceMax ReduceMean
ReduceMin ReduceSum ReLU ReLU6 Reshape Return Rsqrt ScalarAdd ScalarDiv ScalarFloorDiv ScalarMul
ScalarSub ScalarToTensor Select Shape SiLU Sigmoid Slice Softmax SoftmaxExt Split SplitTensor
SplitWithSize Sqrt Square Squeeze StackExt StridedSlice Sub SumExt Switch Tanh TensorShape Tile
ToTensor Transpose TransposeExt TupleGetItem UpdateState Upsample ZerosLike make_tuple
tuple_getitem
"""
ARITHMETIC = frozenset(_NAMES.split())


def executes(folder: Path, info: ArtifactInfo) -> str:
    """Return what MindSpore would execute of a file beside arithmetic, or an empty text."""
    from mindspore.train import mind_ir_pb2

    model = mind_ir_pb2.ModelProto()
    try:
        model.ParseFromString((folder / info.file).read_bytes())
    except Exception as error:  # noqa: BLE001  whatever a stranger's file leads to
        return f"what nobody can tell, as it is no MINDIR file: {error}"
    return next(_found(model), "")


def _found(model: Any) -> Iterator[str]:
    """Yield what is executed, one thing after the other."""
    if model.HasField("preprocessor"):
        yield "a pipeline that prepares images"
    for primitive in model.primitives:
        if primitive.op_type not in ARITHMETIC:
            yield f"the operator {primitive.op_type!r}"
    known = {primitive.name for primitive in model.primitives}
    graphs = [model.graph, *model.functions]
    names = {graph.name for graph in graphs}
    for graph in graphs:
        yield from _in_graph(graph, known, names)


def _in_graph(graph: Any, primitives: set[str], graphs: set[str]) -> Iterator[str]:
    if graph.bprop_filepath:
        yield f"gradients from the file {graph.bprop_filepath!r}"
    for node in graph.node:
        kind, _, name = node.op_type.rpartition("::")
        if not (name in primitives or name in graphs or (not kind and name in ARITHMETIC)):
            yield f"the operator {node.op_type!r}"
    for parameter in graph.parameter:
        if parameter.HasField("external_data"):
            yield f"a read of the file {parameter.external_data.location!r}"
