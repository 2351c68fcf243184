"""What machine the figures are from: processors, memory, and how fast it computes when nothing else counts."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
import time

# Of what matters here; Linux's names, and ours.
FEATURES = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16",
}
# One run of a peak takes some hundredths of a second.
PEAK_ROWS = 300


def describe(threads: int) -> dict:
    lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(cpu.get("flags", "").split())
    name = cpu.get("model name", platform.machine())
    if "cpu family" in cpu:
        name += f" (family {cpu['cpu family']}, model {cpu.get('model')})"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": name,
        "features": [ours for linux, ours in FEATURES.items() if linux in flags],
        "hypervisor": "hypervisor" in flags,
        "processors": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        "load": os.getloadavg()[0],
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
    }


def _commit() -> str:
    root = pathlib.Path(__file__).resolve().parent
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip()


def busy_share(seconds: float = 0.5) -> float:
    """Processors that others keep busy now."""

    def busy() -> float:
        fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")

    before = busy()
    time.sleep(seconds)
    return (busy() - before) / seconds


class Peak:
    """The highest rate of a type's multiply-adds that wait for nothing, of all times it was measured.

    The artifact multiplies numbers of that type; ELEMENTS has the names that `ultrac bench` gives them.
    """

    ELEMENTS = {"fp32": "f32", "bf16": "bf16"}

    def __init__(self, ultrac: str, artifact: pathlib.Path, precision: str, threads: int):
        self._command = [ultrac, "bench", artifact, "--lengths", str(PEAK_ROWS), "--seconds", "0.001", "--json"]
        self._command += ["--threads", str(threads), "--runs", "1"]
        self._element = self.ELEMENTS[precision]
        # FLOP/s.
        self.rate = 0.0
        # FLOP that ultrac counts for one sequence of PEAK_ROWS rows.
        self.flops = 0.0

    def measure(self) -> None:
        report = json.loads(subprocess.run(self._command, check=True, capture_output=True, text=True).stdout)
        self.rate = max(self.rate, report["peaks"][self._element])
        self.flops = report["points"][0]["flops"]
