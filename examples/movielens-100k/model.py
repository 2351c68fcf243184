"""Loads a compiled model and calls it: the part of include/ultra.h that takes ctypes a few lines."""

import ctypes
import json
import math
import pathlib

import numpy

# Element types of the manifest.
NUMPY_TYPES = {"f64": "<f8", "f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4", "u8": "u1", "bool": "?"}
WORKSPACE_ALIGNMENT = 64
STATUS_OK = 0


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("count", ctypes.c_int64)]


class CallError(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("status", ctypes.c_int32),
        ("argument", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("position", ctypes.c_int64),
        ("found", ctypes.c_int64),
        ("expected", ctypes.c_int64),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("dimension_count", ctypes.c_uint32),
        ("dimensions", ctypes.POINTER(ctypes.c_int64)),
        ("inputs", ctypes.POINTER(Tensor)),
        ("outputs", ctypes.POINTER(Tensor)),
        ("input_count", ctypes.c_uint32),
        ("output_count", ctypes.c_uint32),
        ("workspace", ctypes.c_void_p),
        ("workspace_size", ctypes.c_size_t),
        ("parallel", ctypes.c_void_p),
        ("error", ctypes.POINTER(CallError)),
    ]


class Entry(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dimension_count", ctypes.c_uint32),
        ("input_count", ctypes.c_uint32),
        ("output_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("workspace_size", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(ctypes.c_int64), ctypes.c_uint32)),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Call))),
    ]


class Table(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("manifest", ctypes.POINTER(ctypes.c_char)),
        ("manifest_size", ctypes.c_uint64),
        ("level", ctypes.c_char_p),
        ("refusal", ctypes.c_char_p),
        ("entry_count", ctypes.c_uint64),
        ("entries", ctypes.POINTER(Entry)),
    ]


class Model:
    """The entry `forward` of a compiled model."""

    def __init__(self, path: pathlib.Path):
        library = ctypes.CDLL(str(path.resolve()))
        library.ultra_model_v1.restype = ctypes.POINTER(Table)
        self.table = library.ultra_model_v1().contents
        if self.table.refusal:
            raise OSError(f"{path}: {self.table.refusal.decode()}")
        manifest = json.loads(ctypes.string_at(self.table.manifest, self.table.manifest_size))
        self.signature = manifest["entries"][0]
        self.entry = self.table.entries[0]

    def run(self, inputs: dict[str, numpy.ndarray]) -> dict[str, numpy.ndarray]:
        """The outputs by name, for inputs by name, on the calling thread."""
        arrays, extents = [], {}
        for port in self.signature["inputs"]:
            array = numpy.ascontiguousarray(inputs[port["name"]], dtype=NUMPY_TYPES[port["element"]])
            arrays.append(array)
            if port["kind"] == "offsets":
                extents[port["sequences"]] = len(array) - 1
            else:
                extents.update(zip(port["shape"], array.shape))
        dimensions = (ctypes.c_int64 * len(self.signature["dimensions"]))(
            *(extents[name] for name in self.signature["dimensions"])
        )
        results = {}
        for port in self.signature["outputs"]:
            shape = [extents.get(extent, extent) for extent in port["shape"]]
            results[port["name"]] = numpy.empty(shape, dtype=NUMPY_TYPES[port["element"]])

        size = self.entry.workspace_size(dimensions, 1)
        workspace = numpy.empty(size + WORKSPACE_ALIGNMENT, dtype=numpy.uint8)
        start = math.ceil(workspace.ctypes.data / WORKSPACE_ALIGNMENT) * WORKSPACE_ALIGNMENT
        error = CallError(struct_size=ctypes.sizeof(CallError))
        call = Call(
            struct_size=ctypes.sizeof(Call),
            dimension_count=len(dimensions),
            dimensions=dimensions,
            inputs=(Tensor * len(arrays))(*((array.ctypes.data, array.size) for array in arrays)),
            outputs=(Tensor * len(results))(*((array.ctypes.data, array.size) for array in results.values())),
            input_count=len(arrays),
            output_count=len(results),
            workspace=start,
            workspace_size=size,
            parallel=None,
            error=ctypes.pointer(error),
        )
        if self.entry.run(ctypes.byref(call)) != STATUS_OK:
            raise ValueError(
                f"call refused: status {error.status}, argument {error.argument}, position {error.position}, "
                f"found {error.found}, expected {error.expected}"
            )
        return results
