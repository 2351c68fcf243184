"""A compiled model on a GPU: the functions of include/ultra.h, by ctypes, on PyTorch's memory and streams."""

import ctypes
import json
import os

import torch


class Tensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("count", ctypes.c_int64)]


class Error(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("status", ctypes.c_int32), ("argument", ctypes.c_int32),
                ("reserved", ctypes.c_int32), ("position", ctypes.c_int64), ("found", ctypes.c_int64),
                ("expected", ctypes.c_int64)]


FIND = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


class Host(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("find", FIND), ("context", ctypes.c_void_p)]


class DriverError(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("status", ctypes.c_int32), ("driver_status", ctypes.c_int32),
                ("reserved", ctypes.c_int32), ("function", ctypes.c_char_p), ("kernel", ctypes.c_char_p)]


class Call(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("dimension_count", ctypes.c_uint32),
                ("dimensions", ctypes.POINTER(ctypes.c_int64)), ("inputs", ctypes.POINTER(Tensor)),
                ("outputs", ctypes.POINTER(Tensor)), ("input_count", ctypes.c_uint32), ("output_count", ctypes.c_uint32),
                ("host_workspace", ctypes.c_void_p), ("host_workspace_size", ctypes.c_size_t),
                ("parallel", ctypes.c_void_p), ("error", ctypes.POINTER(Error)), ("state", ctypes.c_void_p),
                ("workspace", ctypes.c_uint64), ("workspace_size", ctypes.c_uint64), ("stream", ctypes.c_void_p),
                ("driver_error", ctypes.POINTER(DriverError))]


class Entry(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dimension_count", ctypes.c_uint32), ("input_count", ctypes.c_uint32),
                ("output_count", ctypes.c_uint32), ("kernel_count", ctypes.c_uint32),
                ("host_workspace_size", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(ctypes.c_int64), ctypes.c_uint32)),
                ("workspace_size", ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.POINTER(ctypes.c_int64))),
                ("run", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(Call)))]


class GPU(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("entry_count", ctypes.c_uint32), ("target", ctypes.c_char_p),
                ("ptx", ctypes.c_void_p), ("ptx_size", ctypes.c_uint64), ("code", ctypes.c_void_p), ("code_size", ctypes.c_uint64),
                ("state_size", ctypes.c_uint64), ("weights_size", ctypes.c_uint64),
                ("load", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(Host), ctypes.c_uint64,
                                          ctypes.POINTER(DriverError))),
                ("unload", ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(DriverError))),
                ("entries", ctypes.POINTER(Entry))]


class Table(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("abi_version", ctypes.c_uint32), ("manifest", ctypes.c_void_p),
                ("manifest_size", ctypes.c_uint64), ("level", ctypes.c_char_p), ("refusal", ctypes.c_char_p),
                ("entry_count", ctypes.c_uint64), ("entries", ctypes.c_void_p), ("gpu_count", ctypes.c_uint64),
                ("gpus", ctypes.POINTER(GPU))]


def driver_host():
    """What finds the driver's functions."""
    library = ctypes.CDLL("libcuda.so.1")

    def find(_, name):
        try:
            return ctypes.cast(getattr(library, name.decode()), ctypes.c_void_p).value
        except AttributeError:
            return None

    return Host(ctypes.sizeof(Host), 0, FIND(find), None)


class Model:
    """A loaded artifact's code for the best GPU target that the card can run."""

    def __init__(self, path, target=None):
        self.library = ctypes.CDLL(os.path.abspath(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
        self.library.ultra_model_v1.restype = ctypes.POINTER(Table)
        table = self.library.ultra_model_v1().contents
        if table.refusal:
            raise RuntimeError(table.refusal.decode())
        self.manifest = json.loads(ctypes.string_at(table.manifest, table.manifest_size))
        gpus = {table.gpus[i].target.decode(): table.gpus[i] for i in range(table.gpu_count)}
        major, minor = torch.cuda.get_device_capability()
        able = [name for name in gpus if name == f"sm_{major}{minor}a" or (name[-1] != "a" and int(name[3:]) <= 10 * major + minor)]
        name = target or (able[-1] if able else None)
        if name is None:
            raise RuntimeError(f"{path}: code for {list(gpus) or 'no GPU'}; this card is sm_{major}{minor}")
        self.target, self.gpu, self.host = name, gpus[name], driver_host()
        torch.zeros(1, device="cuda")  # PyTorch's context is the one that the model is loaded in
        self.state = ctypes.create_string_buffer(self.gpu.state_size)
        error = DriverError(ctypes.sizeof(DriverError))
        self.check(self.gpu.load(self.state, self.host, 0, error), error)
        self.entries = {self.gpu.entries[i].name.decode(): self.gpu.entries[i] for i in range(self.gpu.entry_count)}

    def ports(self, entry="forward"):
        """What the manifest says of an entry."""
        return next(e for e in self.manifest["entries"] if e["name"] == entry)

    def check(self, status, error, refusal=None):
        if status == 0:
            return
        if status in (11, 12):
            kernel = f" of {error.kernel.decode()}" if error.kernel else ""
            raise RuntimeError(f"{error.function.decode()}{kernel}: driver status {error.driver_status}")
        raise RuntimeError(f"status {status}" + (f", argument {refusal.argument}, position {refusal.position}: found "
                                                 f"{refusal.found}, expected {refusal.expected}" if refusal else ""))

    def close(self):
        error = DriverError(ctypes.sizeof(DriverError))
        self.check(self.gpu.unload(self.state, error), error)

    def prepare(self, inputs, dimensions, outputs, name="forward"):
        """A call of an entry with memory of its own; `inputs` and `outputs` by name, integers that it takes and offsets in the host's
        memory."""
        entry, ports = self.entries[name], self.ports(name)
        extents = (ctypes.c_int64 * len(dimensions))(*dimensions)
        host = ctypes.create_string_buffer(entry.host_workspace_size(extents, 1) + 64)
        size = entry.workspace_size(extents)
        workspace = torch.empty(size, dtype=torch.uint8, device="cuda")
        tensors = [inputs[port["name"]] for port in ports["inputs"]]
        results = [outputs[port["name"]] for port in ports["outputs"]]
        given = (Tensor * max(1, len(tensors)))(*[Tensor(t.data_ptr(), t.numel()) for t in tensors])
        taken = (Tensor * max(1, len(results)))(*[Tensor(t.data_ptr(), t.numel()) for t in results])
        error, refusal = DriverError(ctypes.sizeof(DriverError)), Error(ctypes.sizeof(Error))
        call = Call(ctypes.sizeof(Call), len(dimensions), extents, given, taken, len(tensors), len(results),
                    (ctypes.addressof(host) + 63) // 64 * 64, len(host) - 64, None, ctypes.pointer(refusal),
                    ctypes.addressof(self.state), workspace.data_ptr(), size, None, ctypes.pointer(error))

        def run():
            call.stream = torch.cuda.current_stream().cuda_stream
            for place, result in enumerate(results):
                taken[place].count = result.numel()
            self.check(entry.run(call), error, refusal)

        run.keep = (extents, host, workspace, tensors, results, given, taken)
        run.workspace = workspace
        return run
