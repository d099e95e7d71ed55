"""`make bench`: every figure of docs/results.md that is a ratio, measured in one run, into bench.json and that page
with `--record`, else into runs/.

Each section is a function of this list; `--only` runs some of them again and keeps the others' figures. A figure that
cannot be had on this machine is null, with the reason.
"""
import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hwgen.attention_cycles import attention_bound
from hwgen.emit import emit
from hwgen.files import json_text, write_if_changed
from hwgen.inputs import machine_of
from hwgen.program import compile_network, sized
from hwgen.timeline import MemoryTiming
from hwgen.traffic import traffic
from model import config as configuration
from model.command_line import command_line
from model.config import Config, ConfigError
from model.masking import SpikeMask
from quantize import network as network_file
from quantize.layers import Attention, Network
from quantize.random_network import TRAINED, random_images, random_network
from sim import images as image_files
from sim.bench_page import BEGIN, END, write_page
from sim.golden.network import run as run_golden
from sim.run import BUILD_ROOT
from sim.trace_file import TRACE_SUFFIX
from sim.verify import verify

if TYPE_CHECKING:
    from sim.rivals import Masked

IMAGES = 16
MASK_RATIO = 0.75
STREAMED = {"memory_bits": 128, "spike_words": 800, "stream_words": 1024, "weight_rows": 600}
"""A 64-lane machine with too little memory for cifar10-tiny: its first stage runs in chunks, weights come as they are used."""
MASKED_ON: tuple[dict[str, int], ...] = (
    {}, {"lanes": 32, "fire_lanes": 32}, {"lanes": 16, "rows_per_cycle": 1}, {"lanes": 32, "fire_lanes": 32, "rows_per_cycle": 1},
    {"fire_lanes": 64, "rows_per_cycle": 1})
"""Machines for cifar10-tiny under its mask: what differs from the configuration's."""
SPEEDS = (Fraction(1), Fraction(1, 4), Fraction(1, 8))
LATENCY = 60
RESULT = "bench.json"
PAGE = Path("docs") / "results.md"
RUNS = Path("runs")
"""Where the figures go without --record."""
PLACED = Path("docs") / "results" / "cifar10-tiny-ecp5.json"
"""What `make synth` reported."""
SYNTHESISED = Path("tests") / "synthesised.json"
"""Machines that the estimate was fitted to, and others that it was not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """What all sections share."""

    path: Path
    config: Config
    network: Network
    images: NDArray[np.uint8]
    folder: Path


Figures = dict[str, Any]


def utilisation(s: Setting) -> Figures:
    """Cycles of whole images in RTL against the bound, and attention's share."""
    from sim.fast.harness import build as build_harness
    from sim.fast.harness import run as run_harness
    from sim.job import Answer

    build = emit(s.network, machine_of(s.config), s.config.masking, s.folder)
    program = build_harness(build)
    work = s.folder / "sim" / "bench"
    answers = run_harness(build, s.images, program=program, folder=work, seed=s.config.masking.seed, traced=range(len(s.images)))
    cycles = attention = bound = 0
    for index, answer in enumerate(answers):
        trace = run_golden(s.network, s.images[index:index + 1], mask=SpikeMask.of(s.config.masking), first_image=index)
        seen = Answer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, index + 1)
        verdict = verify(build.program, trace, s.images[index:index + 1], seen, work / f"{index}{TRACE_SUFFIX}")
        if verdict.failures:
            raise ConfigError(f"image {index}: {verdict.failures[0]}")
        cycles += sum(verdict.measured[0].values())
        attention += sum(count for name, count in verdict.measured[0].items() if name.endswith("attn"))
        bound += sum(layer.bound for layer in verdict.predicted[0])
    own = sum(attention_bound(build.machine, step.attention) for step in build.program.steps if step.attention) * len(answers)
    return {"bound_ratio": cycles / (bound + own), "attention_share": attention / cycles,
            "bound_ratio_gemm_only": cycles / bound, "cycles_per_image": cycles / len(answers),
            "gemm_bound_per_image": bound / len(answers), "attention_bound_per_image": own / len(answers),
            "images": len(answers), "bit_exact": True, "predicted_equals_measured": True}


def skipping(s: Setting) -> Figures:
    """The same network run in other ways on the same array."""
    from sim.rivals import PACED, masked_layers, proportion, ways

    program = compile_network(s.network, machine_of(s.config), s.config.masking)
    program.machine = sized(program.machine, program)
    table = ways(program, s.images, s.config.masking, MASK_RATIO)
    stepped, kinder, serial, rate, ours, masked = table
    layers = masked_layers(program, s.images[0], s.config.masking, MASK_RATIO)
    swin = configuration.load(Path("configs") / "swin-t.toml")
    large = random_network(swin.model, 1, swin.quantize, TRAINED)
    image = random_images(swin.model, 1, 1)[0]

    def proportional(network: Network, config: configuration.Config, image: NDArray[np.uint8],
                     **knobs: int) -> tuple[list["Masked"], dict[str, Any]]:
        machine = dataclasses.replace(machine_of(config), **knobs)  # type: ignore[arg-type]
        found = masked_layers(compile_network(network, machine, config.masking), image, config.masking, MASK_RATIO)
        return found, {"network": config.name, "lanes": machine.lanes, "fire_lanes": machine.fire_lanes,
                       "rows_per_cycle": machine.rows_per_cycle, "ratio": proportion(found),
                       "cycles": sum(layer.cycles for layer in found), "layers": len(found),
                       "within": sum(abs(layer.excess - 1) <= PACED for layer in found)}

    large_layers, large_row = proportional(large, swin, image)
    machines = [proportional(s.network, s.config, s.images[0], **knobs)[1] for knobs in MASKED_ON]
    machines += [large_row, proportional(large, swin, image, rows_per_cycle=1)[1]]
    paced = [layer for layer in large_layers if layer.paced_by == "events"]
    return {"dense_bitserial_ratio": serial.cycles / ours.cycles, "dense_timestep_ratio": stepped.cycles / ours.cycles,
            "dense_timestep_ratio_multibit_once": kinder.cycles / ours.cycles, "rate_coded_ratio": rate.cycles / ours.cycles,
            "masked_cycles_ratio": proportion(layers), "masked_cycles_ratio_swin_t": proportion(large_layers),
            "masked_cycles_ratio_swin_t_event_paced": proportion(paced),
            "masked_worst_layer_swin_t_event_paced": max(layer.excess for layer in paced),
            "rsm_cycles_ratio": masked.cycles / ours.cycles,
            "energy_ratio_rival": serial.energy_pj / ours.energy_pj if serial.energy_pj and ours.energy_pj else None,
            "images": len(s.images),
            "ways": [dataclasses.asdict(way) for way in table],
            "masked_layers": [dataclasses.asdict(layer) for layer in layers],
            "masked_layers_swin_t": [dataclasses.asdict(layer) for layer in large_layers], "masked_machines": machines}


def streaming(s: Setting) -> Figures:
    """Stalls of the same network on a machine that is too small for it, at several memory speeds, in RTL."""
    from sim.fast.harness import build as build_harness
    from sim.fast.harness import run as run_harness
    from sim.fast.single import external_memory
    from sim.job import Answer

    machine = dataclasses.replace(machine_of(s.config), **STREAMED)  # type: ignore[arg-type]
    build = emit(s.network, machine, s.config.masking, s.folder.with_name(f"{s.folder.name}-streamed"))
    program, work = build_harness(build), build.folder / "sim" / "bench"
    beats = sum(layer.total for layer in traffic(build.program).values()) * 8 // machine.memory_bits
    trace = run_golden(s.network, s.images[:1], mask=SpikeMask.of(s.config.masking))
    rows = []
    for speed in SPEEDS:
        timing = MemoryTiming(LATENCY, speed)
        (answer,) = run_harness(build, s.images[:1], program=program, folder=work, seed=s.config.masking.seed, traced=[0],
                                memory=external_memory(build, timing))
        seen = Answer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, 1)
        verdict = verify(build.program, trace, s.images[:1], seen, work / f"0{TRACE_SUFFIX}", timing)
        if verdict.failures:
            raise ConfigError(f"streamed, {speed} beats a cycle: {verdict.failures[0]}")
        bound = float(beats / speed)
        rows.append({"beats_per_cycle": str(speed), "cycles": answer.cycles, "stalls": answer.stalls,
                     "stall_share": answer.stalls / answer.cycles, "bandwidth_bound": bound,
                     "over_bandwidth_bound": answer.cycles / bound, "predicted_cycles": round(verdict.predicted_per_image)})
    return {"stall_share": rows[0]["stall_share"], "over_bandwidth_bound": rows[-1]["over_bandwidth_bound"],
            "latency": LATENCY, "machine": STREAMED, "beats": beats, "bytes": beats * machine.memory_bits // 8,
            "bit_exact": True, "speeds": rows}


def synthesis(s: Setting) -> Figures:
    """Place and route, as `make synth` recorded it (a long time's work is not done again here), and the estimate beside it."""
    from hwgen.config import MachineConfig
    from hwgen.resources import estimate

    if not PLACED.is_file():
        return {"fmax_mhz": None, "lut_fraction": None, "estimate_error": None, "reason": f"{PLACED}: run make synth"}
    report = json.loads(PLACED.read_text(encoding="utf-8"))
    rows = []
    for entry in json.loads(SYNTHESISED.read_text(encoding="utf-8")):
        found = dataclasses.asdict(estimate(MachineConfig(**entry["machine"]), entry["weight_rows"]))
        rows.append({"name": entry["name"], "fitted": entry["fitted"], "estimate": found, "synthesised": entry["used"],
                     "error": {name: found[name] / entry["used"][name] - 1 for name in found}})
    return {"fmax_mhz": report["fmax_mhz"], "lut_fraction": report["share"]["luts"],
            "estimate_error": max(abs(error) for row in rows if not row["fitted"] for error in row["error"].values()),
            "report": report, "estimates": rows}


def simulation(s: Setting) -> Figures:
    """The compiled path against the cocotb bench."""
    from sim.fast.bench import speedup

    return dict(speedup(s.config, s.network, s.images, folder=s.folder))


def golden(s: Setting) -> Figures:
    """The golden against torch and SpikingJelly."""
    from sim.bench_golden import BenchError, golden_ratios

    try:
        return golden_ratios(s.path, np.concatenate([s.images] * 16), 3)
    except BenchError as error:
        return {"golden_vs_torch": None, "golden_vs_spikingjelly": None, "reason": str(error)}


def compiling(s: Setting) -> Figures:
    """Seconds of `make rtl`'s work for 64 lanes: from nothing, again, and after a changed weight."""
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        machine, masking = machine_of(s.config), s.config.masking
        for name in ("rtl_seconds", "rtl_seconds_again"):
            begin = time.monotonic()
            emit(s.network, machine, masking, Path(folder))
            times[name] = time.monotonic() - begin
        first = s.network.layers[0]
        assert not isinstance(first, Attention)
        weight = first.weight.copy()
        weight[0, 0] += 1 if weight[0, 0] < 127 else -1
        changed = dataclasses.replace(s.network, layers=(dataclasses.replace(first, weight=weight), *s.network.layers[1:]))
        begin = time.monotonic()
        build = emit(changed, machine, masking, Path(folder))
        times["rtl_seconds_new_weight"] = time.monotonic() - begin
    return {**times, "regenerated_for_new_weight": build.regenerated}


SECTIONS: dict[str, Callable[[Setting], Figures]] = {
    "utilisation": utilisation, "skipping": skipping, "streaming": streaming, "synthesis": synthesis, "simulation": simulation,
    "golden": golden, "compiling": compiling}
KEYS = ("bound_ratio", "attention_share", "dense_bitserial_ratio", "dense_timestep_ratio", "masked_cycles_ratio", "stall_share",
        "fmax_mhz", "lut_fraction", "estimate_error", "sim_speedup", "golden_vs_torch", "golden_vs_spikingjelly", "rtl_seconds")
"""Figures at the top of bench.json."""


@command_line(RuntimeError)
def main(argv: list[str] | None = None) -> int:
    """`python -m sim.bench --config C [--only SECTION ...]`."""
    top = argparse.ArgumentParser(prog="python -m sim.bench", description=__doc__)
    top.add_argument("--config", required=True, type=Path, help="a trained network, such as configs/cifar10-tiny.toml")
    top.add_argument("--only", nargs="+", choices=list(SECTIONS), help="run only these sections, keep the others' figures")
    top.add_argument("--record", action="store_true", help=f"write to {RESULT} and {PAGE} (default: to {RUNS})")
    args = top.parse_args(argv)
    config = configuration.load(args.config)
    network = network_file.load(config.network)
    images, _ = image_files.of(config, IMAGES)
    setting = Setting(args.config, config, network, images, BUILD_ROOT / config.name)
    result, page = (Path(RESULT), PAGE) if args.record else (RUNS / RESULT, RUNS / "bench.md")
    before = next((path for path in (result, Path(RESULT)) if path.is_file()), None)
    known = json.loads(before.read_text(encoding="utf-8")) if args.only and before else {}
    sections: dict[str, Figures] = known.get("sections", {})
    for name in args.only or SECTIONS:
        begin = time.monotonic()
        command = f"python -m sim.bench --config {args.config.as_posix()} --only {name}"
        sections[name] = {**SECTIONS[name](setting), "command": command}
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)
    figures = {key: next((found[key] for found in sections.values() if key in found), None) for key in KEYS}
    write_if_changed(result, json_text({**figures, "config": config.name, "sections": sections}))
    if not args.record:
        write_if_changed(page, f"{BEGIN}\n{END}\n")
    write_page(page, figures, sections)
    print(json.dumps(figures, indent=1))
    print(f"{result} and {page} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
