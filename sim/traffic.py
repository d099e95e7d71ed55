"""The report of one image on a machine with external memory: cycles, stalls and bytes, layer by layer."""
from pathlib import Path

from hwgen.emit import Build
from hwgen.files import json_text, write_if_changed
from hwgen.timeline import MemoryTiming
from hwgen.traffic import Traffic, traffic
from sim.fast.single import Single

CLOCK_MHZ = 100
"""Clock that images a second are given at: what the 64-lane machine reaches on an ECP5 (docs/results.md)."""


def write_single_report(build: Build, found: Single, timing: MemoryTiming) -> Path:
    """Write single.md and single.json into the build folder; the path of the former."""
    moved = traffic(build.program)
    measured = found.verdict.measured[0] if found.verdict.measured else {}
    predicted = {layer.layer: layer for layer in found.verdict.predicted[0]}
    rows, total = [], Traffic(chunks=0)
    for name, cost in predicted.items():
        layer = moved[name]
        rows.append({"layer": name, "chunks": layer.chunks, "cycles": measured.get(name, 0), "predicted_cycles": cost.cycles,
                     "bound": cost.bound, "events": cost.events, "constant_bytes": layer.constants, "bytes": layer.total})
        for key in ("constants", "spikes_in", "spikes_out", "residual_in", "residual_out"):
            setattr(total, key, getattr(total, key) + getattr(layer, key))
    cycles, stalls = found.answer.cycles, found.answer.stalls
    beats = total.total * 8 // build.machine.memory_bits if build.machine.memory_bits else 0
    summary = {
        "passed": not found.verdict.failures, "failures": found.verdict.failures[:10], "build_id": build.build_id,
        "network": build.program.network.notes, "weights": sum(
            layer.weight.size for layer in build.program.network.layers if hasattr(layer, "weight")),
        "cycles": cycles, "predicted_cycles": sum(cost.cycles for cost in predicted.values()),
        "bound": sum(cost.bound for cost in predicted.values()), "events": found.answer.events,
        "stalls": stalls, "stall_share": stalls / cycles if cycles else None,
        "latency": timing.latency, "bandwidth_beats_per_cycle": float(timing.bandwidth), "memory_bits": build.machine.memory_bits,
        "bytes": total.total, "constant_bytes": total.constants, "bandwidth_bound": round(beats / float(timing.bandwidth)),
        "beats_read": found.answer.memory[0] if found.answer.memory else 0,
        "beats_written": found.answer.memory[1] if found.answer.memory else 0,
        "images_per_second_at_100_mhz": CLOCK_MHZ * 1e6 / cycles if cycles else None, "layers": rows}
    write_if_changed(build.folder / "single.json", json_text(summary))
    lines = [f"# {build.folder.name}: one image through the RTL, layer by layer", "", found.verdict.line(), "",
             f"{cycles} cycles, {stalls} of them waiting for external memory ({100 * stalls / max(cycles, 1):.2f} %); "
             f"{CLOCK_MHZ * 1e6 / max(cycles, 1):.2f} images/s at {CLOCK_MHZ} MHz (predicted, no such board was run). "
             f"Memory: {build.machine.memory_bits} bits, latency {timing.latency}, {timing.bandwidth} beats a cycle; "
             f"{total.total / 1e6:.2f} MB moved.", "",
             "| layer | chunks | cycles | predicted | bound | constants, kB | spikes and residual, kB |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {row['layer']} | {row['chunks']} | {row['cycles']} | {row['predicted_cycles']} | {row['bound']} | "
              f"{int(row['constant_bytes']) / 1e3:.1f} | {(int(row['bytes']) - int(row['constant_bytes'])) / 1e3:.1f} |"  # type: ignore[call-overload]
              for row in rows]
    path = build.folder / "single.md"
    write_if_changed(path, "\n".join(lines) + "\n")
    return path
