"""Where the weights lie in an ONNX file: name, type and shape of every tensor, and the range of its bytes.

A protobuf is walked by its wire format (protobuf.dev/programming-guides/encoding) because positions are what is
wanted, and no ONNX library gives those. Field numbers are those of ``onnx.proto3``. Initializers and constants are
looked for in the graph, in the graphs that its nodes hold (If, Loop, Scan) and in functions. Values are ranges of the
file where they are ``raw_data``, or the packed ``float_data`` and ``double_data``, which are the same bytes; the other
typed fields hold varints, of which none has a place of its own. Tensors whose values lie in a file of their own
(external data) are ranges of that file. A file that is no ONNX has no tensors: nothing here is an error, for a delta
without tensors is only larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_GRAPH, _FUNCTIONS = 7, 25
_NODE, _INITIALIZER = 1, 5
_FUNCTION_NODE = 7
_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_OUTPUT = 2
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _DOUBLE_DATA, _EXTERNAL_DATA = 1, 2, 4, 8, 9, 10, 13
_MOST_NESTED = 32
_KEY, _VALUE = 1, 2
_WIDTHS: Mapping[int, int] = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Number of a type in ``TensorProto.DataType`` → bytes of one element; others are taken as bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A tensor whose values lie in one piece.

    Args:
        name: of the initializer, or of the output of the Constant node.
        data_type: number in ``TensorProto.DataType``.
        shape: its dimensions.
        file: path of the file with the values; empty: the ONNX file itself.
        start, size_bytes: range of the values in that file.
    """

    name: str
    data_type: int
    shape: tuple[int, ...]
    file: str
    start: int
    size_bytes: int

    @property
    def width(self) -> int:
        """Bytes of one element."""
        return _WIDTHS.get(self.data_type, 1)


def tensors(model: memoryview) -> tuple[Tensor, ...]:
    """The tensors of an ONNX file; none if this is no ONNX."""
    try:
        return tuple(_of_model(model))
    except (_NoProtobufError, UnicodeDecodeError, ValueError):
        return ()


class _NoProtobufError(Exception):
    """These bytes are no protobuf message."""


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    start: int  # of the value, in the whole file
    end: int
    value: int  # of a varint; else 0


def _of_model(model: memoryview) -> Iterator[Tensor]:
    for one in _fields(model, 0, len(model)):
        if one.number == _GRAPH:
            yield from _of_graph(model, one, nested=0)
        elif one.number == _FUNCTIONS:
            for field in _fields(model, one.start, one.end):
                if field.number == _FUNCTION_NODE:
                    yield from _of_node(model, field, nested=0)


def _of_graph(model: memoryview, graph: _Field, *, nested: int) -> Iterator[Tensor]:
    if nested > _MOST_NESTED:
        return
    for field in _fields(model, graph.start, graph.end):
        if field.number == _INITIALIZER:
            yield from _tensor(model, field, name=None)
        elif field.number == _NODE:
            yield from _of_node(model, field, nested=nested)


def _of_node(model: memoryview, node: _Field, *, nested: int) -> Iterator[Tensor]:
    """Constants, and what the graphs in attributes hold."""
    fields = list(_fields(model, node.start, node.end))
    output = next((bytes(model[one.start : one.end]).decode() for one in fields if one.number == _OUTPUT), None)
    for attribute in fields:
        if attribute.number == _ATTRIBUTE:
            for one in _fields(model, attribute.start, attribute.end):
                if one.number in {_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS} and one.end > one.start:
                    yield from _tensor(model, one, name=output)
                elif one.number in {_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS} and one.end > one.start:
                    yield from _of_graph(model, one, nested=nested + 1)


def _tensor(model: memoryview, tensor: _Field, *, name: str | None) -> Iterator[Tensor]:
    shape: list[int] = []
    data_type, raw = 0, None
    outside: dict[str, str] = {}
    for one in _fields(model, tensor.start, tensor.end):
        if one.number == _DIMS:
            shape += [one.value] if one.end == one.start else _packed(model, one)
        elif one.number == _DATA_TYPE:
            data_type = one.value
        elif one.number == _NAME and name is None:
            name = bytes(model[one.start : one.end]).decode()
        elif one.number in {_RAW_DATA, _FLOAT_DATA, _DOUBLE_DATA} and one.end > one.start:
            raw = one
        elif one.number == _EXTERNAL_DATA:
            entry = {
                part.number: bytes(model[part.start : part.end]).decode() for part in _fields(model, one.start, one.end)
            }
            outside[entry.get(_KEY, "")] = entry.get(_VALUE, "")
    if raw is not None:
        file, start, size = "", raw.start, raw.end - raw.start
    elif "location" in outside and outside.get("length"):
        file, start, size = outside["location"], int(outside.get("offset") or 0), int(outside["length"])
    else:
        return
    yield Tensor(name=name or "", data_type=data_type, shape=tuple(shape), file=file, start=start, size_bytes=size)


def _packed(model: memoryview, field: _Field) -> list[int]:
    values, at = [], field.start
    while at < field.end:
        value, at = _varint(model, at, field.end)
        values.append(value)
    return values


def _fields(model: memoryview, start: int, end: int) -> Iterator[_Field]:
    """The fields of one message.

    Raises:
        _NoProtobufError: it is none.
    """
    at = start
    while at < end:
        tag, at = _varint(model, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise _NoProtobufError
        if kind == 0:
            value, at = _varint(model, at, end)
            yield _Field(number, at, at, value)
            continue
        if kind == 2:
            size, at = _varint(model, at, end)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise _NoProtobufError
        if at + size > end:
            raise _NoProtobufError
        yield _Field(number, at, at + size, 0)
        at += size


def _varint(model: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = model[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
    raise _NoProtobufError
