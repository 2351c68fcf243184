"""Calls a compiled model (.ultra) from Python, with ctypes and numpy alone.

    model = Model("model.ultra")
    outputs = model.run({"item_ids": ..., "offsets": ..., ...})

The structs are those of include/ultra.h, field by field; docs/abi.md explains them.
"""

import ctypes
import json
import os
import struct

import numpy


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("count", ctypes.c_int64)]


class Error(ctypes.Structure):
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
        ("error", ctypes.POINTER(Error)),
    ]


class Entry(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("dimension_count", ctypes.c_uint32),
        ("input_count", ctypes.c_uint32),
        ("output_count", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        (
            "workspace_size",
            ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(ctypes.c_int64), ctypes.c_uint32),
        ),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Call))),
    ]


class Table(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("manifest", ctypes.c_void_p),
        ("manifest_size", ctypes.c_uint64),
        ("level", ctypes.c_char_p),
        ("refusal", ctypes.c_char_p),
        ("entry_count", ctypes.c_uint64),
        ("entries", ctypes.POINTER(Entry)),
    ]


# numpy has no bfloat16: such tensors come and go as the bits of one, in uint16.
DTYPES = {
    "f64": "<f8",
    "f32": "<f4",
    "f16": "<f2",
    "bf16": "<u2",
    "f8e4m3": "u1",
    "i64": "<i8",
    "i32": "<i4",
    "u8": "u1",
    "bool": "?",
}
STATUS = {
    1: "the call is not as the ABI says",
    2: "wrong number of arguments",
    3: "a dimension is negative or too large",
    4: "an input has the wrong number of elements",
    5: "an output has too little room",
    6: "the workspace is too small or not aligned",
    7: "offsets decrease, or do not begin and end as they must",
    8: "more targets than rows",
    9: "an id is outside its table",
    10: "a sequence is too long",
}
WORKSPACE_ALIGNMENT = 64


class Model:
    """A loaded model. Any number of threads may call `run` at once; each call has its own memory."""

    def __init__(self, path):
        # With a slash in it, the loader does not search for the file; os.RTLD_NOW finds what is wrong now.
        self._library = ctypes.CDLL(os.path.abspath(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        function = self._library.ultra_model_v1
        function.restype = ctypes.POINTER(Table)
        table = function().contents
        if table.abi_version != 1 or table.struct_size < ctypes.sizeof(Table):
            raise RuntimeError(f"{path}: ABI version {table.abi_version}, expected 1")
        if table.refusal:
            raise RuntimeError(f"{path}: {table.refusal.decode()}")
        self.level = table.level.decode()
        self.manifest_bytes = ctypes.string_at(table.manifest, table.manifest_size)
        self.manifest = json.loads(self.manifest_bytes)
        self._bounds = {d["name"]: d.get("atMost") for d in self.manifest["dimensions"]}
        self._entries = {
            entry["name"]: (entry, table.entries[index])
            for index, entry in enumerate(self.manifest["entries"])
        }

    def signature(self, entry="forward"):
        """The entry as the manifest describes it."""
        return self._entries[entry][0]

    def convert(self, inputs, entry="forward"):
        """The inputs as contiguous arrays of the element types that the entry takes, in order: themselves where they are."""
        arrays = []
        for port in self.signature(entry)["inputs"]:
            if port["name"] not in inputs:
                raise ValueError(f"{port['name']}: missing")
            array = numpy.asarray(inputs[port["name"]])
            array = array.astype(DTYPES[port["element"]], casting="same_kind", copy=False)
            arrays.append(numpy.ascontiguousarray(array))
        return arrays

    def bind(self, inputs, entry="forward", parallel=None, workers=1):
        """A call of an entry on named arrays, with a workspace and outputs of its own, to be run as often as one likes.

        `parallel` is the address of an ultra_parallel with so many workers; None: the calling thread alone.
        """
        return BoundCall(self, inputs, entry, parallel, workers)

    def run(self, inputs, entry="forward"):
        """Runs an entry on named arrays; gives named arrays."""
        call = self.bind(inputs, entry)
        call.run()
        return call.results()

    def _extents(self, signature, arrays):
        """Extents of the entry's dimensions, from the shapes of its inputs."""
        extents = {}
        for port, array in zip(signature["inputs"], arrays):
            if port["kind"] == "offsets":
                found = [(port["sequences"], len(array) - 1)]
            else:
                if array.ndim != len(port["shape"]):
                    raise ValueError(f"{port['name']}: shape {array.shape}, expected {port['shape']}")
                found = zip(port["shape"], array.shape)
            for dimension, extent in found:
                expected = extents.setdefault(dimension, extent) if isinstance(dimension, str) else dimension
                if expected != extent:
                    raise ValueError(f"{port['name']}: {dimension} is {extent}, expected {expected}")
        # Rows that no array has are told by the last offset.
        for port, array in zip(signature["inputs"], arrays):
            if port["kind"] == "offsets" and isinstance(port["rows"], str) and len(array) > 0:
                extents.setdefault(port["rows"], int(array[-1]))
        return extents

    def _extent(self, extent, extents):
        """A number, a dimension, or the most that a dimension can be which only the model knows."""
        if not isinstance(extent, str):
            return extent
        bound = self._bounds[extent] or extent
        if isinstance(bound, str):
            return extents[bound]
        return bound.get("constant", 0) + sum(term["times"] * extents[term["dimension"]] for term in bound["terms"])

    @staticmethod
    def _shape(port):
        return port["shape"] if port["kind"] == "tensor" else [port["sequences"]]

    def _cut(self, port, array, count):
        """What was written: fewer rows than there was room for, where the model decides how many."""
        computed = [axis for axis, extent in enumerate(self._shape(port)) if self._bounds.get(extent)]
        if not computed:
            return array
        shape = list(array.shape)
        others = 1
        for axis, extent in enumerate(shape):
            others *= extent if axis != computed[0] else 1
        shape[computed[0]] = count // others if others else 0
        return array.reshape(-1)[:count].reshape(shape)


class BoundCall:
    """A call that has all it needs: see Model.bind. One thread at a time may run it."""

    def __init__(self, model, inputs, entry, parallel, workers):
        self._model = model
        self._signature, self._functions = model._entries[entry]
        self._inputs = model.convert(inputs, entry)
        extents = model._extents(self._signature, self._inputs)
        names = self._signature["dimensions"]
        self._dimensions = (ctypes.c_int64 * len(extents))(*[extents[name] for name in names])

        size = self._functions.workspace_size(self._dimensions, workers)
        if size == ctypes.c_size_t(-1).value:
            raise ValueError(f"a batch of {extents} is too large")
        self._memory = numpy.empty(size + WORKSPACE_ALIGNMENT, numpy.uint8)

        self._outputs = []
        for port in self._signature["outputs"]:
            shape = [model._extent(extent, extents) for extent in model._shape(port)]
            if port["kind"] == "offsets":
                # One more than sequences.
                shape[0] += 1
            self._outputs.append(numpy.empty(shape, DTYPES[port["element"]]))

        self._error = Error(struct_size=ctypes.sizeof(Error))
        self._input_tensors = (Tensor * len(self._inputs))(*[Tensor(a.ctypes.data, a.size) for a in self._inputs])
        self._output_tensors = (Tensor * len(self._outputs))()
        address = self._memory.ctypes.data
        self._call = Call(
            struct_size=ctypes.sizeof(Call),
            dimension_count=len(self._dimensions),
            dimensions=self._dimensions,
            inputs=self._input_tensors,
            outputs=self._output_tensors,
            input_count=len(self._inputs),
            output_count=len(self._outputs),
            workspace=address + -address % WORKSPACE_ALIGNMENT,
            workspace_size=size,
            parallel=parallel,
            error=ctypes.pointer(self._error),
        )

    def replace(self, name, array):
        """Has the next runs read another array for an input: contiguous, of the same shape and element type."""
        names = [port["name"] for port in self._signature["inputs"]]
        index = names.index(name)
        before = self._inputs[index]
        if array.shape != before.shape or array.dtype != before.dtype or not array.flags.c_contiguous:
            raise ValueError(f"{name}: {array.dtype} {array.shape}, expected contiguous {before.dtype} {before.shape}")
        self._inputs[index] = array
        self._input_tensors[index].data = array.ctypes.data

    def run(self):
        """Runs the call; its results are then those of `results`."""
        # A call leaves behind how much it wrote where it found how much room there is.
        for tensor, array in zip(self._output_tensors, self._outputs):
            tensor.data, tensor.count = array.ctypes.data, array.size
        status = self._functions.run(ctypes.byref(self._call))
        if status != 0:
            error = self._error
            names = [port["name"] for port in self._signature["inputs"]]
            entry = self._signature["name"]
            where = f"{names[error.argument]}[{error.position}]" if 0 <= error.argument < len(names) else entry
            reason = STATUS.get(status, f"status {status}")
            raise ValueError(f"{where}: {reason} (found {error.found}, expected {error.expected})")

    def results(self):
        """What the last run gave, by name: arrays that the next one writes over."""
        return {
            port["name"]: self._model._cut(port, array, tensor.count)
            for port, array, tensor in zip(self._signature["outputs"], self._outputs, self._output_tensors)
        }


def read_safetensors(path):
    """All tensors of a safetensors file, by name."""
    types = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < 8:
        raise ValueError(f"{path}: {len(data)} bytes, too few for a safetensors file")
    (size,) = struct.unpack_from("<Q", data)
    if size > len(data) - 8:
        raise ValueError(f"{path}: its header has {size} bytes, the file {len(data)}")
    tensors = {}
    for name, described in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = described["data_offsets"]
        flat = numpy.frombuffer(data[8 + size + begin : 8 + size + end], types[described["dtype"]])
        tensors[name] = flat.reshape(described["shape"])
    return tensors
