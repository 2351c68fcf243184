"""Our own models beside each other: what `ultrac bench` says of published shapes; and the tables of that."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import tempfile

from page import digits, table
from peers.compiled import ROOT, compile_model
from stacks import make_model

NAME = "own"
BF16 = "lower-precision{matmul=bf16,attention=bf16}"
INT8 = "lower-precision{matmul=int8,attention=bf16}"
FP8 = "lower-precision{matmul=fp8,attention=bf16}"
# Layers that run on all rows, and rows that the others keep: the published shapes leave both open. With the second pair
# (TorchEasyRec's example keeps as many) the model needs a tenth of the dense one's FLOP, as the paper says of its own; with
# the first, what the paper says that it needs.
TRUNCATIONS = {"paper-ultra-truncated": (4, 2048), "paper-ultra-short": (3, 512)}
MOVIELENS = ROOT / "examples" / "movielens-100k"
# Rows and layers, at most, where --quick has no time for more; enough layers for every truncation.
QUICK_LENGTH, QUICK_LAYERS = 256, 5


@dataclasses.dataclass(frozen=True)
class Spec:
    """A model, and the lengths and threads that it is measured with."""

    key: str
    title: str
    # Arguments of make_model.describe; None: the trained model of MovieLens-100K.
    shape: dict | None
    precision: str
    lengths: tuple[int, ...]
    threads: tuple[int, ...]
    rewrite: str = ""
    # The result is all rows, so that prune-demand takes nothing off.
    all_rows: bool = False
    targets: int = 1


@dataclasses.dataclass
class Own:
    """One model at one length on so many threads."""

    key: str
    title: str
    precision: str
    rows: int
    threads: int
    seconds: float
    flops: float | None
    share_of_peak: float | None
    workspace: int
    file_size: int
    # Seconds of the kernels that multiply by weights and do not attend.
    projections: float
    # Share of peak of the kernels that attend.
    attention_share: float | None


def _layer(width: int, heads: int, head: int) -> dict:
    return dict(layers=1, width=width, heads=heads, head=head, mask=make_model.CAUSAL, length=16384)


LENGTHS = (256, 1024, 4096, 16384)
LAYERS = {"512": (512, 4, 128), "256": (256, 4, 64), "8x32": (256, 8, 32), "64": (64, 2, 32)}
SEMI_LOCAL = _layer(512, 4, 128) | {"mask": make_model.semi_local(256)}


def _specs() -> list[Spec]:
    shapes = make_model.SHAPES
    specs = []
    for name, (width, heads, head) in LAYERS.items():
        for precision, rewrite in (("bf16", BF16), ("fp32", "")):
            if precision == "fp32" and name == "8x32":
                continue
            title = f"layer, D {width}, {heads} x {head}"
            specs.append(Spec(
                f"layer-{name}", title, _layer(width, heads, head), precision, LENGTHS, (1, 2), rewrite, all_rows=True))
    specs.append(Spec(
        "semi-local", "layer, D 512, window 256 + tail 256", SEMI_LOCAL, "bf16", (4096, 16384, 65536), (1, 2), BF16, all_rows=True))
    dense, ultra = shapes["paper-hstu-16384x10"], shapes["paper-ultra-16384x18"]
    specs.append(Spec("paper-hstu", "HSTU, 10 layers", dense, "bf16", (16384,), (2,), BF16))
    for key, (after, keep) in TRUNCATIONS.items():
        truncation = f"attention-truncation{{after={after},keep={keep}}}"
        title = f"ULTRA, 18 layers, {keep} rows after layer {after}"
        specs.append(Spec(key, title, ultra, "bf16", (16384,), (2,), f"{truncation},{BF16}"))
        specs.append(Spec(f"{key}-int8", title, ultra, "int8", (16384,), (2,), f"{truncation},{INT8}"))
    prefix = shapes["ultra-prefix-16384x18"]
    specs.append(Spec("paper-prefix", "ULTRA, 18 layers, key prefix", prefix, "bf16", (16384,), (2,), BF16, targets=128))
    for precision, rewrite in (("fp32", ""), ("bf16", BF16), ("fp8", FP8), ("int8", INT8)):
        specs.append(Spec(
            "precision", "6 layers, D 512, 4 x 128", shapes["paper-hstu-3072x6"], precision, (256, 1024, 3072), (1,), rewrite))
    for precision, rewrite in (("fp32", ""), ("bf16", BF16)):
        for width, head in ((50, 25), (64, 32)):
            specs.append(Spec(
                f"width-{width}", f"8 layers, D {width}, 2 x {head}", _layer(width, 2, head) | {"layers": 8}, precision,
                (200, 1024), (1,), rewrite, all_rows=True))
    specs.append(Spec("movielens", "MovieLens-100K, trained", None, "bf16", (200,), (1,), BF16))
    return specs


def measure(options, tell) -> list[Own]:
    if options.only not in NAME:
        return []
    found = []
    for spec in _specs():
        if options.precision and spec.precision not in options.precision:
            continue
        with tempfile.TemporaryDirectory(prefix="ultrac-bench-") as name:
            tell(f"{spec.title}, {spec.precision}")
            folder = pathlib.Path(name)
            artifact = folder / "model.ultra"
            compile_model(options.ultrac, _write(spec, folder, options.quick), artifact, spec.rewrite)
            lengths = [QUICK_LENGTH] if options.quick and spec.shape else spec.lengths
            for threads in sorted({min(threads, options.threads) for threads in spec.threads}):
                tell(f"{spec.title}, {spec.precision}, {threads} threads")
                found += _bench(spec, artifact, lengths, threads, options)
    return found


def _write(spec: Spec, folder: pathlib.Path, quick: bool) -> pathlib.Path:
    if spec.shape is None:
        for name in ("model.json", "weights.safetensors"):
            shutil.copy(MOVIELENS / name, folder / name)
        return folder / "model.json"
    shape = spec.shape | {"layers": min(spec.shape["layers"], QUICK_LAYERS) if quick else spec.shape["layers"]}
    model = make_model.describe(spec.key, **shape)
    if spec.all_rows:
        model["output"] = {"rows": "all", "norm": {"kind": "none"}}
    make_model.write_model(folder, model)
    return folder / "model.json"


def _bench(spec: Spec, artifact: pathlib.Path, lengths, threads: int, options) -> list[Own]:
    command = [options.ultrac, "bench", artifact, "--lengths", ",".join(map(str, lengths)), "--threads", str(threads)]
    command += ["--seconds", str(options.seconds / 2), "--targets", str(spec.targets), "--runs", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    found = []
    for point in report["points"]:
        kernels = point["kernels"]
        attending = [k for k in kernels if "attention" in k["computes"]]
        projecting = [k for k in kernels if k not in attending and "linear" in k["computes"].replace("quantized_linear", "linear")]
        at_peak = sum((k.get("shareOfPeak") or 0) * k["median"] for k in attending)
        found.append(Own(
            spec.key, spec.title, spec.precision, point["length"], threads, point["median"], point.get("flops"),
            point.get("shareOfPeak"), point["workspaceBytes"], artifact.stat().st_size,
            sum(k["median"] for k in projecting),
            at_peak / sum(k["median"] for k in attending) if attending else None))
    return found


def lines(own: list[Own]) -> list[str]:
    if not own:
        return []
    body = [
        [o.title, o.precision, str(o.rows), str(o.threads), _time(o.seconds), _share(o.share_of_peak),
         _share(o.attention_share), f"{o.workspace / 1e6:.1f} MB", f"{o.file_size / 1e6:.1f} MB"]
        for o in own
    ]
    header = ["model", "precision", "rows", "threads", "time", "of peak", "attention's kernels", "workspace", "file"]
    return [
        "### Our own models", "",
        "As `ultrac bench` measures them: medians, and shares of what the same threads reached with the same types of numbers.",
        "Layers are in the production form, seeded.", "",
        *table(header, body, 2), "",
    ]


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{digits(seconds * 1e6)} us"
    return f"{digits(seconds * 1e3)} ms" if seconds < 1 else f"{digits(seconds)} s"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
