"""ONNX files as bytes: whether all that they compute with is inside, found out without ONNX's own package.

A tensor of an ONNX file may name another file that holds its values. Such a file is not what its own hash says it is,
and can name any path.
"""

from collections.abc import Iterator

# ONNX's messages (onnx.proto) in which a tensor can lie, however deep: number of the field -> the message there
FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor: where its values are, and that they are there
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # how protobuf stores a field


def has_external_data(content: bytes) -> bool:
    """Return whether a tensor of an ONNX file has its values in another file.

    Args:
        content: of the file; what is no ONNX file is left to what opens it.

    Raises:
        ValueError: it is cut.
    """
    if b"location" not in content:  # the key under which a tensor names the other file
        return False
    waiting = [("model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        for field, value in fields_of(message):
            if kind == "tensor" and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value)):
                return True
            inner = FIELDS[kind].get(field)
            if inner is not None and isinstance(value, memoryview):
                waiting.append((inner, value))
    return False


def fields_of(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a protobuf message: number, and whole number or bytes.

    Raises:
        ValueError: it is cut, or no such message.
    """
    place = 0
    while place < len(message):
        key, place = varint(message, place)
        number, stored = key >> 3, key & 7
        if stored == VARINT:
            value, place = varint(message, place)
            yield number, value
            continue
        if stored == BYTES:
            size, place = varint(message, place)
        elif stored in (FIXED64, FIXED32):
            size = 8 if stored == FIXED64 else 4
        else:
            raise ValueError(f"a field is stored as {stored}, which ONNX has not")
        if place + size > len(message):
            raise ValueError("a field ends after the file")
        yield number, message[place : place + size]
        place += size


def varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the whole number that begins at a place, and where it ends.

    Raises:
        ValueError: it is cut or too long.
    """
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number is cut")
