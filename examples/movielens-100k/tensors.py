"""Reads and writes safetensors files with numpy alone."""

import json
import os
import pathlib
import struct

import numpy

NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
NAMES = {numpy.dtype(code): name for name, code in NUMPY_TYPES.items()}


def read_tensors(path: pathlib.Path) -> dict[str, numpy.ndarray]:
    """The tensors of a file by name, as views of one mapping of it."""
    data = numpy.memmap(path, dtype=numpy.uint8, mode="r")
    (header_size,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + header_size].tobytes())
    body = data[8 + header_size :]
    return {
        name: body[slice(*entry["data_offsets"])].view(NUMPY_TYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def write_tensors(path: pathlib.Path, tensors: dict[str, numpy.ndarray]) -> None:
    """Writes a file whole or not at all: to a neighbour first, which is then renamed."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    # The format wants tensors to begin at a multiple of 8 bytes, and allows spaces after the header for it.
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".unfinished")
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(numpy.ascontiguousarray(tensor).tobytes())
    os.replace(unfinished, path)
