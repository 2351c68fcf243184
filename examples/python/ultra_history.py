"""Histories that are kept for a compiled model: blocks of memory as include/ultra_cache.h makes them, byte for byte.

    histories = Histories(Model("model.ultra"))
    history = histories.new(capacity=4096)
    histories.prefill([history], {"item_ids": ..., "offsets": ..., ...})
    scores = histories.score([history], {"item_ids": candidates, "offsets": [0, len(candidates)], ...})
    open("user-17.history", "wb").write(history.packed())

docs/abi.md has the layout of a block.
"""

import functools
import struct

import numpy

from ultra import DTYPES

MAGIC = b"ULTRAHST"
VERSION = 1
ALIGNMENT = 64
HEADER = struct.Struct("<8sIIQqqqIIQ")
CHECKSUM_AT = 56


@functools.cache
def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0xC96C5795D7870F42 if value & 1 else 0)
        table.append(value)
    return table


def crc64(data):
    """CRC-64/XZ, as include/ultra_checksum.h has it."""
    table, crc = _crc_table(), 0xFFFFFFFFFFFFFFFF
    for byte in bytes(data):
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFFFFFFFFFF


def _aligned(count):
    return -(-count // ALIGNMENT) * ALIGNMENT


class Histories:
    """What a model keeps of histories, as its manifest says."""

    def __init__(self, model):
        self.model = model
        self._entries = {entry["name"]: entry for entry in model.manifest["entries"]}
        if "prefill" not in self._entries:
            raise ValueError("the model keeps no histories; compile it with --rewrite cached-scoring")
        self.identity = crc64(model.manifest_bytes)
        # What entries take, each once: offsets by name, then the tensors that they cut.
        self._cuts, self._sections = {}, {}
        kept = [
            (entry, port)
            for name in ("score", "extend") if name in self._entries
            for entry in [self._entries[name]]
            for port in entry["inputs"] if "keeps" in port
        ]
        for _, port in kept:
            if port["kind"] == "offsets":
                self._cuts.setdefault(port["name"], port)
        for entry, port in kept:
            if port["kind"] != "offsets":
                cut = next(p["name"] for e, p in kept if e is entry and p.get("rows") == port["shape"][0])
                self._sections.setdefault(port["name"], (port, cut))
        self.header_bytes = _aligned(HEADER.size + 8 * len(self._cuts))

    def _port(self, entry, side, name):
        return next((port for port in self._entries[entry][side] if port["name"] == name), None)

    def _own_offsets(self, entry):
        """The offsets of the rows that a call brings."""
        return next(
            port["name"] for port in self._entries[entry]["inputs"]
            if port["kind"] == "offsets" and "keeps" not in port and port.get("role") != "feature-offsets")

    def _most_rows(self, cut, rows):
        """The most rows of a cut that a history of so many has."""
        keeps = self._cuts[cut]["keeps"]
        source = self._port("prefill", "inputs", keeps) or self._port("prefill", "outputs", keeps)
        dimension = next(d for d in self.model.manifest["dimensions"] if d["name"] == source["rows"])
        bound = dimension.get("atMost") or dimension["name"]
        if not isinstance(bound, str):
            own = self._port("prefill", "inputs", self._own_offsets("prefill"))["rows"]
            terms = sum(term["times"] * (rows if term["dimension"] == own else 1) for term in bound["terms"])
            rows = terms + bound.get("constant", 0)
        most = dimension.get("atMostOfSequence")
        # A quarter more than a window lets rows be left out a few at a time.
        window = self._cuts[cut].get("window")
        return rows if most is None else min(rows, most + (window["latest"] // 4 if window else 0))

    def _left_out(self, cut, capacity, rows):
        """Which of so many rows of a cut are left out to make room, in pairs behind the first ones: none without a window."""
        window = self._cuts[cut].get("window")
        if window is None or rows <= self._most_rows(cut, capacity):
            return slice(0, 0)
        count = max(rows - window["first"] - window["latest"], 0) // 2 * 2
        return slice(window["first"], window["first"] + count)

    def layout(self, capacity):
        """For each section its offset, rows, numbers of a row, and type; and the bytes of the block."""
        offset, sections = self.header_bytes, {}
        for name, (port, cut) in self._sections.items():
            rows, width = self._most_rows(cut, capacity), int(numpy.prod(port["shape"][1:], dtype=int))
            dtype = numpy.dtype(DTYPES[port["element"]])
            sections[name] = (offset, rows, width, dtype)
            offset += _aligned(rows * width * dtype.itemsize)
        return sections, offset

    def new(self, capacity):
        """A history without rows, with room for `capacity`."""
        if capacity < 0:
            raise ValueError(f"a capacity of {capacity} rows")
        history = History(self, capacity)
        history.seal()
        return history

    def load(self, data, capacity=None):
        """A history from the bytes of a block, with room for `capacity` rows, or for no more than it has."""
        rows, cut_rows, stored = self._check(data)
        history = self.new(rows if capacity is None else capacity)
        if rows > history.capacity:
            raise ValueError(f"{rows} rows, but room for {history.capacity}")
        sections, _ = self.layout(stored)
        for name, (offset, _, width, dtype) in sections.items():
            kept = cut_rows[self._sections[name][1]]
            source = numpy.frombuffer(data, dtype, kept * width, offset)
            history.section(name)[:kept] = source.reshape(kept, width)
        history.rows, history.cut_rows = rows, cut_rows
        history.seal()
        return history

    def _check(self, data):
        """Refuses what is no block of this model; gives rows, rows of cuts, and capacity."""
        if len(data) < self.header_bytes:
            raise ValueError(f"{len(data)} bytes, too few for a block")
        magic, version, header, identity, size, capacity, rows, cuts, sections, checksum = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError("no block of a kept history")
        if version != VERSION:
            raise ValueError(f"version {version} of the layout, expected {VERSION}")
        if identity != self.identity:
            raise ValueError("the block is of another compiled model")
        own = bytearray(data[: self.header_bytes])
        own[CHECKSUM_AT : CHECKSUM_AT + 8] = bytes(8)
        cut_rows = dict(zip(self._cuts, struct.unpack_from(f"<{len(self._cuts)}q", data, HEADER.size)))
        if (header, cuts, sections) != (self.header_bytes, len(self._cuts), len(self._sections)) or (
            checksum != crc64(own) or not 0 <= rows <= capacity or self.layout(capacity)[1] != size
            or any(not 0 <= found <= self._most_rows(cut, capacity) for cut, found in cut_rows.items())
        ):
            raise ValueError("the block's header is damaged")
        if len(data) < size:
            raise ValueError(f"{len(data)} bytes, but the block has {size}")
        return rows, cut_rows, capacity

    def prefill(self, histories, inputs):
        """Fills histories with what is computed of their rows, one sequence each; gives the other results."""
        for history in histories:
            history.rows, history.cut_rows = 0, dict.fromkeys(self._cuts, 0)
        return self._run("prefill", histories, inputs, keep=True)

    def score(self, histories, inputs):
        """Scores candidates against histories, one sequence each."""
        return self._run("score", histories, inputs, keep=False)

    def extend(self, histories, inputs, keep=True):
        """Computes further rows, one sequence each, which become part of the histories unless `keep` is false."""
        return self._run("extend", histories, inputs, keep)

    def _run(self, entry, histories, inputs, keep):
        inputs = dict(inputs)
        own = numpy.asarray(inputs[self._own_offsets(entry)])
        if len(own) != len(histories) + 1:
            raise ValueError(f"{len(own)} offsets for {len(histories)} histories")
        for port in self._entries[entry]["inputs"]:
            if "keeps" not in port:
                continue
            name = port["name"]
            if name in self._cuts:
                inputs[name] = numpy.cumsum([0, *(history.cut_rows[name] for history in histories)], dtype=numpy.int64)
                continue
            # Of one history, the block's memory itself; of several, copies one behind the other.
            parts = [history.kept(name) for history in histories]
            shape = (-1, *port["shape"][1:])
            empty = numpy.empty((0, *parts[0].shape[1:]) if parts else (0, *port["shape"][1:]), DTYPES[port["element"]])
            inputs[name] = (parts[0] if len(parts) == 1 else numpy.concatenate([empty, *parts])).reshape(shape)
        results = self.model.run(inputs, entry)
        if keep:
            self._put(entry, histories, inputs, results, own)
        names = {self._cuts[cut]["keeps"] for cut in self._cuts} | {p["keeps"] for p, _ in self._sections.values()}
        return {name: array for name, array in results.items() if name not in names}

    def _put(self, entry, histories, inputs, results, own):
        """Puts what a call computed, or brought, behind what histories hold."""
        offsets = {cut: results.get(port["keeps"], own) for cut, port in self._cuts.items()}
        for user, history in enumerate(histories):
            if history.rows + int(own[user + 1] - own[user]) > history.capacity:
                raise ValueError(f"history {user} has room for {history.capacity} rows only")
        for user, history in enumerate(histories):
            added = {cut: int(found[user + 1] - found[user]) for cut, found in offsets.items()}
            for name, (port, cut) in self._sections.items():
                rows = numpy.asarray(results.get(port["keeps"], inputs.get(port["keeps"])))
                start, held, section = int(offsets[cut][user]), history.cut_rows[cut], history.section(name)
                new = rows[start : start + added[cut]].reshape(-1, section.shape[1])
                left_out = self._left_out(cut, history.capacity, held + added[cut])
                if left_out.stop > left_out.start:
                    kept = numpy.delete(numpy.concatenate([section[:held], new]), left_out, axis=0)
                    section[: len(kept)] = kept
                else:
                    section[held : held + added[cut]] = new
            for cut, count in added.items():
                rows = history.cut_rows[cut] + count
                left_out = self._left_out(cut, history.capacity, rows)
                history.cut_rows[cut] = rows - (left_out.stop - left_out.start)
            history.rows += int(own[user + 1] - own[user])
            history.seal()


class History:
    """What is kept of one user's history, in one block of memory: `block`, an array of bytes."""

    def __init__(self, owner, capacity):
        self.owner, self.capacity, self.rows = owner, capacity, 0
        self.cut_rows = dict.fromkeys(owner._cuts, 0)
        self._layout, size = owner.layout(capacity)
        memory = numpy.zeros(size + ALIGNMENT, numpy.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self.block = memory[start : start + size]

    def section(self, name):
        """A section as an array [rows that there is room for, numbers of a row]."""
        offset, rows, width, dtype = self._layout[name]
        return self.block[offset : offset + rows * width * dtype.itemsize].view(dtype).reshape(rows, width)

    def kept(self, name):
        """What a section holds."""
        return self.section(name)[: self.cut_rows[self.owner._sections[name][1]]]

    def packed(self):
        """The bytes of a block with room for no more rows than it holds: to be stored or sent."""
        packed = self.owner.load(self.block.tobytes())
        return packed.block.tobytes()

    def seal(self):
        """Writes the header."""
        owner, count = self.owner, len(self.cut_rows)
        fields = [MAGIC, VERSION, owner.header_bytes, owner.identity, len(self.block), self.capacity, self.rows]
        header = HEADER.pack(*fields, count, len(self._layout), 0) + struct.pack(f"<{count}q", *self.cut_rows.values())
        header = bytearray(header.ljust(owner.header_bytes, b"\0"))
        struct.pack_into("<Q", header, CHECKSUM_AT, crc64(header))
        self.block[: owner.header_bytes] = numpy.frombuffer(header, numpy.uint8)
