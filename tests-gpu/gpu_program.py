"""A compiled program's PTX on a GPU: its buffers in the card's memory, its kernels launched through the driver."""

import ctypes
import json
import re

import torch

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "i64": torch.int64}
PANEL = 32
MULTIPROCESSORS = 132
CLUSTERED_BLOCKS = 224  # at least of a launch of clusters


class Driver:
    """libcuda, by its C functions; every status is checked and named."""

    def __init__(self):
        self.library = ctypes.CDLL("libcuda.so.1")

    def call(self, name, *arguments):
        status = getattr(self.library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {status} ({text.value.decode() if text.value else 'unknown'})")

    def load(self, image):
        """The module of a PTX text or a cubin; what the assembler says where it fails."""
        module = ctypes.c_void_p()
        log = ctypes.create_string_buffer(16384)
        options = (ctypes.c_int * 2)(5, 6)  # CU_JIT_ERROR_LOG_BUFFER and its size
        values = (ctypes.c_void_p * 2)(ctypes.cast(log, ctypes.c_void_p), ctypes.c_void_p(len(log)))
        try:
            self.call("cuModuleLoadDataEx", ctypes.byref(module), image, 2, options, values)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{log.value.decode()}") from None
        return module


def read_weights(path):
    """The tensors of a safetensors file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        data = bytearray(file.read())
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    return {
        name: torch.frombuffer(data, dtype=kinds[entry["dtype"]], count=(entry["data_offsets"][1] - entry["data_offsets"][0])
                               // kinds[entry["dtype"]].itemsize, offset=entry["data_offsets"][0]).reshape(entry["shape"])
        for name, entry in header.items() if name != "__metadata__" and entry["data_offsets"][0] < entry["data_offsets"][1]
    }


def pack(matrix, together):
    """A matrix [k, n] in panels of 32 columns, neighbours of the contracted index side by side."""
    k, n = matrix.shape
    wide = torch.zeros(-(-k // together) * together, -(-n // PANEL) * PANEL, dtype=matrix.dtype)
    wide[:k, :n] = matrix
    return wide.reshape(-1, together, wide.shape[1] // PANEL, PANEL).permute(2, 0, 3, 1).contiguous()


def fragments(matrix):
    """A matrix [k, n] as the lanes of a warp take it: docs/tile-ir.md, `weight fragments`."""
    k, n = matrix.shape
    wide = torch.zeros(-(-k // 16) * 16, -(-n // PANEL) * PANEL, dtype=matrix.dtype)
    wide[:k, :n] = matrix
    # rows: step, row, place, pair; columns: panel, group, half, column
    wide = wide.reshape(wide.shape[0] // 16, 2, 4, 2, wide.shape[1] // PANEL, 8, 2, 2)
    return wide.permute(4, 0, 6, 5, 2, 7, 1, 3).contiguous()


def matrices(matrix):
    """A matrix [k, n] as groups of four warps read it: docs/tile-ir.md, `weight matrices`."""
    k, n = matrix.shape
    wide = torch.zeros(-(-k // 16) * 16, -(-n // 256) * 256, dtype=matrix.dtype)
    wide[:k, :n] = matrix
    # rows: step, half, row; columns: panel, group, pair, tile, column
    wide = wide.reshape(wide.shape[0] // 16, 2, 8, wide.shape[1] // 256, 8, 4, 4, 2)
    return wide.permute(3, 0, 4, 6, 1, 5, 7, 2).contiguous()


class Program:
    """The kernels of a PTX text as `ultrac compile --emit ptx` writes it, for a batch of sequences."""

    def __init__(self, text, weights, driver, image=None):
        self.driver = driver
        lines = text.splitlines()
        self.buffers = {b["name"]: b for b in (json.loads(l[10:]) for l in lines if l.startswith("// buffer "))}
        self.launches = [json.loads(l[10:]) for l in lines if l.startswith("// launch ")]
        module = driver.load(image or text.encode())
        for launch in self.launches:
            function = ctypes.c_void_p()
            driver.call("cuModuleGetFunction", ctypes.byref(function), module, launch["symbol"].encode())
            driver.call("cuFuncSetAttribute", function, 8, launch["shared"])  # the most shared memory it may have
            if launch["cluster"] > 8:
                driver.call("cuFuncSetAttribute", function, 14, 1)  # clusters larger than every card has
            launch["function"] = function
        self.weights = {}
        for name, buffer in self.buffers.items():
            if buffer["home"].startswith("weight "):
                packing, source = buffer["home"][7:].split(": ", 1)
                self.weights[name] = self.weight(weights, packing, source, buffer["element"]).cuda()

    @staticmethod
    def weight(weights, packing, source, element):
        base, part = source, None
        if match := re.fullmatch(r"(.*)\.(\d+)_(\d+)", base):
            base, part = match[1], slice(int(match[2]), int(match[3]) + 1)
        base = base.removesuffix(".bf16")
        value = weights[base]
        if part is not None:
            value = value[..., part]
        value = value.to(DTYPES[element])
        if packing.startswith("panels"):
            return pack(value.T if "transposed" in packing else value, 2 if element == "bf16" else 1)
        if packing.startswith("fragments"):
            return fragments(value.T if "transposed" in packing else value)
        if packing.startswith("matrices"):
            return matrices(value.T if "transposed" in packing else value)
        return value.flip(-1).contiguous() if packing == "reversed" else value.contiguous()

    def prepare(self, inputs, offsets, targets, selected=None):
        """Memory for a batch. `inputs` by name; tables of blocks are made here."""
        extents = {"rows": int(offsets[-1]), "sequences": len(offsets) - 1}
        tables = {"offsets": offsets}
        if targets is not None:
            tables["num_targets"] = targets
            tables["target_offsets"] = torch.cat([torch.zeros(1, dtype=torch.int64), targets.cumsum(0)])
            extents["target_rows"] = int(targets.sum())
        heights = {l["table"]: l["block"] for l in self.launches if "table" in l}
        for name, height in heights.items():
            lengths = tables[name.removesuffix(".blocks")].diff()
            blocks = (lengths + height - 1) // height
            tables[name] = torch.cat([torch.zeros(1, dtype=torch.int64), blocks.cumsum(0)])
        self.extents = extents
        self.memory = dict(self.weights)
        slots = {}
        for name, buffer in self.buffers.items():
            if name in self.memory:
                continue
            if name in inputs:
                self.memory[name] = inputs[name]
            elif name in tables:
                self.memory[name] = tables[name].cuda()
            else:
                rows = buffer["rows"]
                plus = 1 if rows.endswith(" + 1") else 0
                rows = rows.removesuffix(" + 1")
                count = (int(rows) if rows.isdigit() else extents[rows]) + plus
                size = max(1, count * buffer["columns"]) * DTYPES[buffer["element"]].itemsize
                if buffer["home"].startswith("workspace"):
                    slots.setdefault(buffer["home"], []).append((name, size))
                else:
                    self.memory[name] = torch.empty(size, dtype=torch.uint8, device="cuda")
        for members in slots.values():
            block = torch.empty(max(size for _, size in members), dtype=torch.uint8, device="cuda")
            for name, _ in members:
                self.memory[name] = block
        self.ready = [self.bind(launch, tables) for launch in self.launches]

    def bind(self, launch, tables):
        values = []
        for parameter in launch["parameters"]:
            kind, name = parameter.split(" ", 1)
            if kind == "buffer":
                values.append(ctypes.c_uint64(self.memory[name].data_ptr()))
            elif kind == "extent":
                values.append(ctypes.c_int64(self.extents[name]))
            else:
                raise NotImplementedError(parameter)
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.cast(ctypes.byref(v), ctypes.c_void_p) for v in values])
        if "table" in launch:
            blocks = int(tables[launch["table"]][-1]) * launch["pieces"] * launch["parts"]
        else:
            rows = launch["over"]
            rows = int(rows) if rows.isdigit() else self.extents[rows]
            blocks = -(-rows // launch["rows"]) * launch["parts"]
        cluster = launch["cluster"]
        if blocks and cluster > 1:
            blocks = -(-max(blocks, CLUSTERED_BLOCKS) // cluster) * cluster
        columns = min(launch["columns"], max(1, MULTIPROCESSORS // max(1, blocks)))
        return launch, blocks, columns, pointers, values

    def poison(self):
        """Fills all memory that kernels write with numbers that are none."""
        for name, buffer in self.buffers.items():
            if buffer["home"].startswith(("workspace", "output")) and buffer["element"] != "i64":
                self.memory[name].view(torch.uint8).fill_(0xFF)

    def launch(self, entry):
        launch, blocks, columns, pointers, _ = entry
        if blocks:
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            self.driver.call("cuLaunchKernel", launch["function"], blocks, columns, 1, launch["threads"], 1, 1, launch["shared"],
                             stream, pointers, None)

    def run(self):
        for entry in self.ready:
            self.launch(entry)

    def value(self, name):
        buffer = self.buffers[name]
        return self.memory[name].view(torch.uint8).view(DTYPES[buffer["element"]]).reshape(-1, buffer["columns"])
