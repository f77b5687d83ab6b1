"""Narrower weights without a calibration set: half precision, and 4-bit weights of matrix products.

fp16
    Every float tensor inside the graph becomes float16; inputs and outputs stay float32, so that feeds and
    comparisons do not change. Operators of `quantise.Quantisation.exclude_operators` and excluded nodes stay float32.
int4
    The constant matrix of each MatMul becomes blocks of 4-bit integers with one scale each: ONNX Runtime's operator
    ``MatMulNBits`` (domain ``com.microsoft``), which only ONNX Runtime knows. Activations stay float32.

Both use ONNX Runtime's own tools, and are written in the canonical order of `artifacts.quantise`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from pytest_edgehil.errors import ExtraMissing, ModelError


def half_precision(model: Any, *, exclude: Sequence[str], exclude_operators: Sequence[str]) -> Any:
    """A graph in float16.

    Args:
        model: ``onnx.ModelProto`` with shapes inferred; it is changed.
        exclude: names of nodes that stay float32.
        exclude_operators: types of operators that stay float32, beside those that ONNX Runtime has no half for.

    Raises:
        ModelError: the converter cannot handle it.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    try:
        return convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=sorted({*DEFAULT_OP_BLOCK_LIST, *exclude_operators}),
            node_block_list=sorted(exclude),
        )
    except Exception as problem:  # plain errors without a common base
        raise ModelError(f"the fp16 converter gave up: {' '.join(str(problem).split()):.200}") from problem


def four_bits(model: Any, *, block_size: int, symmetric: bool, exclude: Sequence[str]) -> Any:
    """A graph whose matrix products have 4-bit weights.

    Args:
        model: ``onnx.ModelProto``; it is changed.
        block_size: elements of a column that share a scale: a power of two, 16 … 256.
        symmetric: no zero points: smaller, and a little less exact.
        exclude: names of nodes to leave as they are.

    Raises:
        ModelError: there is no product with a constant matrix, or the quantiser cannot handle it.
        ExtraMissing: the extra ``[build]`` is not complete.
    """
    try:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="build", feature="quantising to 4 bits") from missing

    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    try:
        quantiser = MatMulNBitsQuantizer(
            model, bits=4, block_size=block_size, is_symmetric=symmetric, nodes_to_exclude=sorted(exclude)
        )
        quantiser.process()
    except Exception as problem:  # see above
        raise ModelError(f"the 4-bit quantiser gave up: {' '.join(str(problem).split()):.200}") from problem
    made = quantiser.model.model
    if not any(node.op_type == "MatMulNBits" for node in made.graph.node):
        raise ModelError("int4 changes nothing: the model has no MatMul with a constant matrix (Gemm and Conv stay)")
    return made
