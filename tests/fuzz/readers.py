"""Every reader of files that strangers may have written, with small whole files to start from: the one list of them.

`READERS` is what is fuzzed; `OWN` names the other functions that read files, and why no stranger's file reaches them.
tests/test_fuzz_files.py compares both with the sources, so that a new reader cannot be forgotten.
"""
import gzip
import hashlib
import io
import json
import pickle
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
Mutator = Callable[[bytes, random.Random], bytes]
TINY = {"image_size": 8, "in_channels": 3, "classes": 3, "patch": 2, "embedding": 8, "depths": [2, 1], "heads": [2, 2],
        "window": 2, "mlp_ratio": 1.0, "levels": 7}


@dataclass(frozen=True, slots=True)
class Reader:
    """`read(path)` reads a file, or raises what `model.command_line.told` tells in a line (a ValueError or an OSError).

    `name`: of the file, where the reader looks at it. `seeds()`: whole files. `repair`: makes sums right again after a
    mutation, so that what lies behind them is reached; half of the mutations are repaired. `covers`: functions, as
    "module:name", through which it opens the file.
    """

    name: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    covers: tuple[str, ...]
    repair: Callable[[bytes], bytes] | None = None
    text: bool = False


# -- whole files ---------------------------------------------------------------------------------------------------------


def _written(write: Callable[[Path], object], name: str = "file") -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def _configurations() -> list[bytes]:
    return [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.toml"))]


def _model() -> Any:
    import torch

    from model.config import MaskingConfig, read_model
    from model.factory import network
    torch.manual_seed(1)
    return network(read_model(TINY), MaskingConfig())


def _checkpoints() -> list[bytes]:
    from model import checkpoint
    return [_written(lambda path: checkpoint.save(path, _model(), {"epoch": 1, "dataset": "cifar10"}))]


def _states() -> list[bytes]:
    import torch

    from model import checkpoint
    tensors = {"model.head.bias": torch.zeros(3), "optimiser.0.step": torch.zeros(())}
    info = {"config": json.dumps([{"model": TINY}, {"precision": "float32"}, None]), "epoch": 1, "log": [], "scaler": {}}
    return [_written(lambda path: checkpoint.write(path, tensors, checkpoint.STATE_FORMAT, info))]


def _state_dict(**options: Any) -> Any:
    import sys
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import reference_states as states
    import torch
    return states.random_state(seed=4, image=8, patch=1, embedding=4, depths=(2, 1), heads=(2, 1), classes=3, ratio=1.0,
                               dtype=torch.float32, **options)


def _authors() -> list[bytes]:
    import torch
    config = {"DATA": {"IMG_SIZE": 8}, "MODEL": {"MST": {"QK_SCALE": None, "MASKING_RATIO": 0.5}}}
    content = {"model": _state_dict(), "config": config, "epoch": 3, "max_accuracy": np.float64(1.5)}
    return [_written(partial(torch.save, content, _use_new_zipfile_serialization=zipped)) for zipped in (True, False)]


def _references() -> list[bytes]:
    from model.reference import files, from_state_dict
    model = from_state_dict(_state_dict(), 8)
    return [_written(lambda path: files.save(path, model, {"config": {}, "mask_ratio": 0.5}))]


def _networks() -> list[bytes]:
    from model.config import read_model
    from quantize.network import encode
    from quantize.random_network import random_network
    shapes = (TINY, {"kind": "resnet", "image_size": 8, "in_channels": 1, "classes": 3, "levels": 7, "depths": [1, 1],
                     "widths": [8, 8], "shortcut": "projection"})
    return [encode(random_network(read_model(shape), seed=1)) for shape in shapes]


def _packed() -> list[bytes]:
    from hwgen.config import machine_config
    from hwgen.packed import compiled, pack
    from model.config import MaskingConfig, read_model
    from quantize.random_network import random_network
    masking = MaskingConfig()
    network = random_network(read_model(TINY), seed=1)
    program, machine, design = compiled(network, machine_config({"lanes": 8, "fire_lanes": 4}), masking)
    return [pack(program, machine, masking, int(design[:8], 16))]


def _pictures() -> list[bytes]:
    from firmware.host.png import write_png
    picture = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    return [_written(partial(write_png, image=image)) for image in (picture, picture[..., :1])]


def _batches() -> list[bytes]:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3072), np.uint8)
    content = {b"data": pixels, b"labels": [3, 1], b"fine_labels": [3, 1], b"filenames": [b"a.png", b"b.png"]}
    short = {b"data": pixels[:0], b"labels": []}  # most mutations fall into the pickle, not into its pixels
    return [pickle.dumps(entry, protocol=protocol) for entry in (short, content) for protocol in (2, 4)]


def _idx() -> list[bytes]:
    return [struct.pack(">HBB3I", 0, 8, 3, 2, 4, 4) + bytes(range(32)), struct.pack(">HBBI", 0, 8, 1, 3) + bytes(3)]


def _npz() -> list[bytes]:
    stream, packed = io.BytesIO(), io.BytesIO()
    arrays = {"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": np.arange(2)}
    np.savez(stream, **arrays)
    np.savez_compressed(packed, **arrays)
    return [stream.getvalue(), packed.getvalue()]


def _atis() -> list[bytes]:
    return [b"".join(bytes([x, 3 * x, 128 * (x % 2), 0, 7 * x]) for x in range(8)) + bytes([0, 240, 0, 0, 0, 1, 1, 0, 0, 1])]


def _dat() -> list[bytes]:
    header = b"% Data file\n% Version 2\n% Height 240\n% Width 304\n"
    return [header + bytes([12, 8]) + b"".join(struct.pack("<II", 10 * x, x | x << 14 | (x % 2) << 28) for x in range(8))]


def _aedat() -> list[bytes]:
    return [b"#!AER-DAT2.0\n# made\n" + b"".join(struct.pack(">II", x << 8 | x << 1 | x % 2, 10 * x) for x in range(8))]


def _traces() -> list[bytes]:
    from sim.trace_file import TRACE_MAGIC
    records = [(ord("D"), 0, struct.pack("<Q", 5)), (ord("S"), 3, b"abc"), (ord("R"), 1, b"wxyz"),
               (ord("F"), 0, struct.pack("<Q", 9))]
    binary = struct.pack("<3I", TRACE_MAGIC, 3, 4) + b"".join(struct.pack("<2I", kind, at) + word for kind, at, word in records)
    return [binary, b"D 0 5\nS 3 636261\nR 1 7a797877\nD 1 7\nF 0 9\n"]


def _reports() -> list[bytes]:
    """The report of a small run, without a simulation: measured cycles equal the predicted ones."""
    from hwgen.config import MachineConfig
    from hwgen.emit import Build
    from hwgen.program import compile_network, sized
    from hwgen.schedule import predict
    from model.config import SITES, Config, MaskingConfig, QuantizeConfig, TrainConfig, read_model
    from model.masking import SpikeMask
    from quantize.random_network import random_images, random_network
    from sim.golden.network import run as run_golden
    from sim.report import write_report
    from sim.run import Outcome
    from sim.verify import Verdict, stored
    model, masking = read_model(TINY), MaskingConfig(sites=SITES, ratio=0.5)
    network, images = random_network(model, 4), random_images(model, 9, 1)
    machine = MachineConfig(lanes=8, fire_lanes=4, planes=3, head_lanes=8, window_tokens=4)
    program = compile_network(network, machine, masking)
    program.machine = sized(machine, program)
    mask = SpikeMask.of(masking)
    trace = run_golden(network, images, mask=mask)
    verdict = Verdict(1, len(program.layers))
    verdict.predicted = [predict(program, {name: found[0] for name, found in stored(trace, program, images).items()})]
    verdict.measured = [{layer.layer: layer.cycles for layer in image} for image in verdict.predicted]
    config = Config("small", model, masking, TrainConfig(), QuantizeConfig(), {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = Build(program, program.machine, folder, "d" * 64, "b" * 64, True)
        outcome = Outcome(verdict, build, trace, images, mask, masking)
        write_report(outcome, config, folder)
        return [(folder / "report.json").read_bytes()]


def _answers() -> list[bytes]:
    registers = struct.pack("<7I", 5, 0, 6, 0, 0, 0, 1)
    return [struct.pack("<3I", 0, 2, 7) + struct.pack("<2i", 3, -4) + registers]


def _accuracies() -> list[bytes]:
    return [(ROOT / "configs" / "fashion-tiny.accuracy.json").read_bytes()]


def _constants() -> list[bytes]:
    from sim.energy import CONSTANTS
    return [CONSTANTS.read_bytes()]


def _manifests() -> list[bytes]:
    from dataclasses import asdict

    from hwgen.config import MachineConfig
    return [json.dumps({"machine": asdict(MachineConfig()), "design_id": "0123456789abcdef"}, indent=1).encode()]


def _frames() -> list[bytes]:
    from firmware.host.frames import encode
    return [encode(1, 2, b"\xc0\xdbabc") + encode(3, 4)]


# -- sums that a mutation broke ------------------------------------------------------------------------------------------


def _sha_at_the_end(data: bytes) -> bytes:
    return data[:-32] + hashlib.sha256(data[:-32]).digest() if len(data) > 32 else data


def _network_sum(data: bytes) -> bytes:
    """The header's length, where it is a JSON of another length now, and the sum."""
    end = data.find(b"\n}", 16)
    if end > 0:
        data = data[:12] + struct.pack("<I", end + 2 - 16) + data[16:]
    return _sha_at_the_end(data)


def _packed_sum(data: bytes) -> bytes:
    return data if len(data) < 16 else data[:8] + struct.pack("<2I", len(data), zlib.crc32(data[16:])) + data[16:]


def _png_sums(data: bytes) -> bytes:
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        if at + 12 + size > len(data):
            break
        part = data[at + 4:at + 8 + size]
        out += data[at:at + 4] + part + struct.pack(">I", zlib.crc32(part))
        at += 12 + size
    return bytes(out) + data[at:]


def _safetensors_length(data: bytes) -> bytes:
    """The header's length, where its JSON has another one now."""
    try:
        _, end = json.JSONDecoder().raw_decode(data[8:].decode("latin1"))
    except (ValueError, RecursionError):
        return data
    return struct.pack("<Q", end) + data[8:]


# -- readers -------------------------------------------------------------------------------------------------------------


def _configuration(path: Path) -> object:
    from hwgen.config import machine_config
    from model import config
    found = config.load(path)
    machine_config(found.machine)
    return found


def _checkpoint(path: Path) -> object:
    from model import checkpoint
    return checkpoint.load(path)


def _state(path: Path) -> object:
    from model import checkpoint
    return checkpoint.read(path, checkpoint.STATE_FORMAT)


def _author(path: Path) -> object:
    from model.reference import import_checkpoint
    return import_checkpoint(path)


def _reference(path: Path) -> object:
    from model.reference import load
    return load(path, None)


def _network(path: Path) -> object:
    from quantize.network import load
    return load(path)


def _packed_file(path: Path) -> object:
    from firmware.host.session import load_file
    return load_file(path)


def _png(path: Path) -> object:
    from firmware.host.png import read_png
    return read_png(path)


def _cifar(path: Path) -> object:
    from model import image_sets
    return image_sets._batch(path, b"labels", 10)


def _idx_file(path: Path) -> object:
    from model import image_sets
    return image_sets._idx(path.with_suffix("") if path.suffix == ".gz" else path)


def _images(path: Path) -> object:
    from sim.images import load
    return load(path, 1)


def _events(path: Path) -> object:
    from model.event_files import read_events
    return read_events(path, (34, 34))


def _trace(path: Path) -> object:
    from sim.trace_file import read_trace
    return list(read_trace(path))


def _report(path: Path) -> object:
    from sim.report import render_again
    return render_again(path.parent)


def _answer(path: Path) -> object:
    from sim.fast.script import read_answers
    return read_answers(path)


def _accuracy(path: Path) -> object:
    from quantize.measured import measured
    return measured(path)


def _energy(path: Path) -> object:
    from sim.energy import load
    return load(path)


def _manifest(path: Path) -> object:
    from firmware.__main__ import board_machine
    return board_machine(path)


def _wire(path: Path) -> object:
    from firmware.host.frames import Decoder
    return Decoder().feed(path.read_bytes())


READERS: dict[str, Reader] = {
    "configuration": Reader("c.toml", _configuration, _configurations, ("model.config:load",), text=True),
    "checkpoint": Reader("c.safetensors", _checkpoint, _checkpoints, ("model.checkpoint:read",), _safetensors_length),
    "training state": Reader("state.safetensors", _state, _states, ("model.checkpoint:read",), _safetensors_length),
    "authors' checkpoint": Reader("best.pth", _author, _authors,
                                  ("model.reference.files:import_checkpoint", "model.reference.pickled:__init__",
                                   "model.reference.pickled:_zip", "model.reference.pickled:_legacy",
                                   "model.reference.pickled:values")),
    "imported network": Reader("r.safetensors", _reference, _references,
                               ("model.checkpoint:read", "model.reference.files:is_reference"), _safetensors_length),
    "network file": Reader("n.mstn", _network, _networks, ("quantize.network:load", "quantize.network:_decode"), _network_sum),
    "packed network": Reader("n.bin", _packed_file, _packed, ("firmware.host.session:load_file",), _packed_sum),
    "png": Reader("p.png", _png, _pictures, ("firmware.host.png:read_png",), _png_sums),
    "cifar batch": Reader("batch", _cifar, _batches, ("model.dataset:contents",)),
    "idx": Reader("x-idx3-ubyte", _idx_file, _idx, ("model.image_sets:_idx_bytes",)),
    "idx.gz": Reader("x-idx3-ubyte.gz", _idx_file, lambda: [gzip.compress(data, mtime=0) for data in _idx()],
                     ("model.image_sets:_unzipped",)),
    "npz": Reader("i.npz", _images, _npz, ("sim.images:load", "sim.images:_array")),
    "events bin": Reader("e.bin", _events, _atis, ("model.dataset:contents",)),
    "events dat": Reader("e.dat", _events, _dat, ("model.dataset:contents",)),
    "events aedat": Reader("e.aedat", _events, _aedat, ("model.dataset:contents",)),
    "trace": Reader("t.trace", _trace, _traces, ("sim.trace_file:read_trace", "sim.trace_file:_text", "sim.trace_file:_binary")),
    "report": Reader("report.json", _report, _reports, ("sim.report:render_again",), text=True),
    "answers": Reader("answers.bin", _answer, _answers, ("sim.fast.script:read_answers",)),
    "accuracies": Reader("a.json", _accuracy, _accuracies, ("quantize.measured:measured",), text=True),
    "energy constants": Reader("e.toml", _energy, _constants, ("sim.energy:load",), text=True),
    "manifest": Reader("manifest.json", _manifest, _manifests, ("firmware.__main__:board_machine",), text=True),
    "wire frames": Reader("frames", _wire, _frames, ("firmware.host.frames:feed",)),
}


BUILT, TOOL = "a product of the same build, read back", "what a tool of the build has just written"
SOURCE = "this repository's own"
OPENS = "opens no file: a port, or what one of READERS has read"
OWN: dict[str, str] = {
    "firmware.host.png:_with_pillow": OPENS, "firmware.host.png:read_header": OPENS, "hwgen.emit:emit_named": BUILT,
    "model.commands:_digest": "compares bytes only", "model.commands:_recorded": OPENS, "model.holdout:expect_rule": OPENS,
    "model.pictures:read_picture": "Pillow decodes it, after its size was compared", "model.teacher:_restore": OPENS,
    "model.teacher:main": "compares bytes only", "model.train:_placeless": OPENS,
    "firmware.build:flat": BUILT, "firmware.host.cli:main": OPENS, "firmware.host.window:__init__": OPENS,
    "hwgen.boards:bitstream": BUILT, "hwgen.emit:_recorded": BUILT, "hwgen.emit:design_digest": SOURCE, "hwgen.emit:emit": BUILT,
    "hwgen.emit:hardware_sources": SOURCE, "hwgen.files:write_if_changed": "compares bytes only", "hwgen.multipliers:save": BUILT,
    "hwgen.multipliers:saved": BUILT, "hwgen.netlist:improve": TOOL, "hwgen.pynq:generate": BUILT, "hwgen.pynq:utilisation": TOOL,
    "hwgen.register_files:stale": SOURCE, "hwgen.synth:cells_of": TOOL, "hwgen.synth:routed_of": TOOL,
    "hwgen.synth:run_step": BUILT, "hwgen.synth:run_tool": TOOL, "hwgen.synth:synthesise": BUILT, "hwgen.synth:utilisation": TOOL,
    "hwgen.timeline:run_timeline": OPENS, "model.checkpoint:_header": BUILT,
    "model.distill:load": "the sum of a checkpoint that was read before", "model.get_torch:allowed": SOURCE,
    "model.get_torch:locked": SOURCE, "model.get_torch:plan": TOOL,
    "model.precision:_cpu_flags": "the kernel's",
    "model.train:_differences": OPENS, "model.train:_saved_precision": OPENS,
    "quantize.__main__:_activity": "the committed sample", "quantize.__main__:_write": "compares texts only",
    "quantize.network:save": "compares bytes only", "sim.bench:main": SOURCE, "sim.bench:synthesis": SOURCE,
    "sim.bench_golden:golden_ratios": TOOL, "sim.bench_golden:main": "the committed sample", "sim.bench_page:write_page": SOURCE,
    "sim.fast.harness:_failure": TOOL, "sim.fast.harness:build": BUILT, "sim.fast.harness:run": TOOL,
    "sim.fast.verify_all:_key": SOURCE, "sim.fast.verify_all:_known": BUILT, "sim.job:load": BUILT,
    "sim.post_synth:_as_verilog": BUILT, "sim.post_synth:spoiled": BUILT, "sim.post_synth:synthesised": BUILT,
    "sim.runner:_build": TOOL, "sim.runner:_digest": BUILT, "sim.runner:_tail": TOOL, "sim.runner:build_program": BUILT,
    "sim.tb.duts:bench": BUILT, "sim.tb.tb_protocol:work": BUILT, "sim.tb.tb_top:run_images": BUILT,
    "sim.tb.tb_top_errors:_program": BUILT, "sim.tb.tb_top_errors:ready_machine": BUILT, "sim.uart:build": BUILT,
}
"""Other functions that read, and why no stranger's file reaches them."""
