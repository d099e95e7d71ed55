"""The report of a run: report.json (all figures), report.md (tables) and cycles.svg (a picture), in the build folder.

Means are over the run's images. What is measured and what is modelled is said beside every figure; nothing depends on
time or place, so that equal runs give equal bytes.
"""
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

from hwgen.files import json_text, write_if_changed
from hwgen.multipliers import saved
from model.config import Config
from quantize.layers import Attention, Network
from quantize.measured import accuracy_file, measured
from quantize.network import digest as network_digest
from sim import energy
from sim.ops import LayerOps, count, mean, memories, per_image
from sim.run import Outcome
from sim.verify import Verdict

JSON_FILE, MARKDOWN_FILE, PICTURE_FILE = "report.json", "report.md", "cycles.svg"
TEMPLATE = "report.md.j2"
VERSION = 1
"""Of report.json; raised when a key changes its meaning."""
FAILURES_KEPT = 20
SUMMED = ("dense_macs", "sops", "dense_sops", "events", "dense_events", "masked_events", "spikes", "masked_spikes",
          "cycles", "predicted_cycles", "dense_cycles", "zero_skipped_cycles", "mask_skipped_cycles")


class ReportError(ValueError):
    """There is no usable report to render: the message says what to run."""


def write_report(outcome: Outcome, config: Config, folder: Path, accuracies: Path | None = None) -> None:
    """Write report.json, report.md and cycles.svg of a verified run to `folder`, each only when it changed.

    `accuracies`: file of measured ones (default: beside the network file); those in the network's notes go first.
    Untrained networks have none. Errors: ReportError, `sim.energy.EnergyError`.
    """
    values = collect(outcome, config, accuracies or accuracy_file(config))
    write_if_changed(folder / JSON_FILE, json_text(values))
    render_again(folder)


def render_again(folder: Path) -> Path:
    """Write report.md and cycles.svg anew from the report.json of `folder`; returns report.md's path.

    ReportError, one line, when there is no report.json, or it is broken or of another version.
    """
    path = folder / JSON_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise ReportError(f"{path}: is not of version {VERSION}: run make sim again")
    except FileNotFoundError:
        raise ReportError(f"{path}: there is no report yet: run make sim first") from None
    except ReportError:
        raise
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path}: broken ({error}): run make sim again") from None
    try:
        drawn, text = picture(values["layers"]), markdown(values)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, TemplateError) as error:
        raise ReportError(f"{path}: lacks a figure, or has one of another kind ({' '.join(repr(error).split())[:120]}): "
                          "run make sim again") from None
    write_if_changed(folder / PICTURE_FILE, drawn)
    write_if_changed(folder / MARKDOWN_FILE, text)
    return folder / MARKDOWN_FILE


def collect(outcome: Outcome, config: Config, accuracies: Path) -> dict[str, Any]:
    """All figures of a run, as JSON values."""
    verdict, program, machine = outcome.verdict, outcome.build.program, outcome.build.machine
    network = program.network
    constants, capacities = energy.load(), memories(machine)
    steps = verdict.steps
    ops = mean(count(program, outcome.trace, outcome.images.repeat(steps, axis=0), verdict.predicted or None))
    if steps > 1:
        ops = per_image(ops, steps)
    layers = [_layer(layer, verdict, constants, capacities) for layer in ops]
    even, actual = energy.break_even(ops, constants)
    return _numbers({
        "version": VERSION, "config": config.name,
        "build_id": outcome.build.build_id, "design_id": outcome.build.design_id,
        "network": {**_network(network), "accuracy": accuracy(network, accuracies)},
        "machine": dataclasses.asdict(machine),
        "rtl": {
            "images": verdict.images, "mismatches": len(verdict.mismatched_images), "passed": not verdict.failures,
            "time_steps": steps if machine.stepwise else None,
            "line": verdict.line(), "failures": verdict.failures[:FAILURES_KEPT], "layers": verdict.layers,
            "mask_ratio": outcome.masking.ratio, "mask_sites": list(outcome.masking.sites),
            "mask_ratios": dict(outcome.masking.ratios), "mask_seed": outcome.masking.seed,
            "cycles_per_image": verdict.cycles_per_image if verdict.measured else None,
            "predicted_cycles_per_image": verdict.predicted_per_image},
        "layers": layers, "totals": _totals(layers),
        "break_even": {"sops_per_mac": even, "measured_sops_per_mac": actual},
        "memory_capacity_bits": capacities, "operators": _operators(outcome),
        "energy_columns": [{"name": name, "meaning": meaning} for name, meaning in energy.COLUMNS.items()],
        "energy_constants": constants.sources()})


def accuracy(network: Network, accuracies: Path) -> dict[str, Any]:
    """qcfs, exact, exact_agreement, integer (shares of 1), stepwise ({steps: share}), images; null where not measured.

    The integer accuracy counts only if it was measured on this very network. ReportError on a broken file.
    """
    found: dict[str, Any] = {}
    if "random_weights" not in network.notes:
        try:
            found = measured(accuracies)
        except ValueError as error:
            raise ReportError(str(error)) from None
        if found.get("integer_network") != network_digest(network):
            found.pop("integer", None)
        notes = network.notes.get("accuracy")
        found |= notes if isinstance(notes, dict) else {}
    return {key: found.get(key) for key in ("qcfs", "exact", "exact_agreement", "integer", "stepwise", "images")}


def _network(network: Network) -> dict[str, Any]:
    gemms = [layer for layer in network.layers if not isinstance(layer, Attention)]
    return {"parameters": network.parameters, "weights": sum(layer.weight.size for layer in gemms),
            "levels": network.model.levels, "planes": network.model.planes, "digest": network_digest(network),
            "trained": "random_weights" not in network.notes}


def _layer(layer: LayerOps, verdict: Verdict, constants: energy.Constants,
           capacities: Mapping[str, int]) -> dict[str, Any]:
    measured = [image[layer.name] for image in verdict.measured if layer.name in image]
    return {
        **{key: getattr(layer, key) for key in (
            "name", "kind", "dense_macs", "sops", "dense_sops", "events", "dense_events", "masked_events", "spikes",
            "masked_spikes", "rate_spikes", "dense_cycles", "zero_skipped_cycles", "mask_skipped_cycles", "utilisation",
            "memory_bits")},
        "cycles": sum(measured) * verdict.steps / len(measured) if measured else None, "predicted_cycles": layer.cycles,
        "energy_pj": energy.energy(layer, constants, capacities)}


def _totals(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key in SUMMED:
        values = [layer[key] for layer in layers]
        out[key] = None if None in values else sum(values)
    coded = [layer for layer in layers if layer["rate_spikes"] is not None]
    out["rate_spikes"], out["phase_spikes"] = (sum(layer[key] for layer in coded) for key in ("rate_spikes", "spikes"))
    out["energy_pj"] = {column: sum(layer["energy_pj"][column] for layer in layers) for column in energy.COLUMNS}
    out["memory_bits"] = {name: sum(layer["memory_bits"].get(name, 0) for layer in layers) for name in sorted(
        {name for layer in layers for name in layer["memory_bits"]})}
    return out


def _operators(outcome: Outcome) -> dict[str, Any] | None:
    found = saved(outcome.build.verilog)
    if found is None:
        return None
    groups = next(iter(found.counts.values()), {})
    return {"modules": len(found.counts), **{group: found.total(group) for group in groups},
            "multiplications": [entry._asdict() for entry in found.multiplications]}


def _numbers(value: Any) -> Any:
    """`value` as plain JSON: whole floats as integers, the others to six digits behind the point."""
    if isinstance(value, Mapping):
        return {str(key): _numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(entry) for entry in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    number = float(value)
    return int(number) if number.is_integer() else round(number, 6)


# -- rendering ---------------------------------------------------------------------------------------------------

def markdown(values: Mapping[str, Any]) -> str:
    """report.md of a report's values."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"count": _grouped, "percent": _percent, "nj": _nanojoules}
    return environment.get_template(TEMPLATE).render(r=values, picture=PICTURE_FILE)


def _grouped(value: float | None) -> str:
    """12,345 or 12,345.6; a dash where there is nothing."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:,.1f}"


def _percent(value: float | None, digits: int = 2) -> str:
    return "not measured" if value is None else f"{100 * value:.{digits}f} %"


def _nanojoules(value: float) -> str:
    return f"{value / 1000:,.2f}"


ROW, LEFT, WIDTH, RIGHT = 18, 110, 560, 150
COLOURS = {"cycles": "#2b6cb0", "mask_skipped_cycles": "#e0a030", "zero_skipped_cycles": "#d8dee6"}
LABELS = {"cycles": "cycles", "mask_skipped_cycles": "skipped by the mask", "zero_skipped_cycles": "skipped as zero"}


def picture(layers: Sequence[Mapping[str, Any]]) -> str:
    """An SVG with a bar per layer: its cycles, then what the mask and the zeros save against the dense walk.

    A tick marks the prediction: where RTL and prediction agree, it is the end of the blue bar.
    """
    def value(layer: Mapping[str, Any], key: str) -> float:
        return float(layer["predicted_cycles"] if layer[key] is None else layer[key])

    longest = max(max(sum(value(layer, key) for key in COLOURS), 1) for layer in layers)
    scale, height = WIDTH / longest, ROW * (len(layers) + 2) + 8
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}"'
           ' font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="#ffffff"/>']
    at = LEFT
    for key, label in LABELS.items():
        out += [f'<rect x="{at}" y="6" width="10" height="10" fill="{COLOURS[key]}"/>',
                f'<text x="{at + 14}" y="15">{label}</text>']
        at += 24 + 7 * len(label)
    out += [f'<path d="M{at + 4} 5 v12" stroke="#000000" stroke-width="2"/>',
            f'<text x="{at + 12}" y="15">prediction</text>']
    for index, layer in enumerate(layers):
        top, left = ROW * (index + 1) + 6, float(LEFT)
        out.append(f'<text x="{LEFT - 6}" y="{top + 12}" text-anchor="end">{layer["name"]}</text>')
        for key, colour in COLOURS.items():
            width = max(0.0, value(layer, key)) * scale
            if width:
                out.append(f'<rect x="{left:.1f}" y="{top + 2}" width="{width:.1f}" height="{ROW - 5}" '
                           f'fill="{colour}"/>')
            left += width
        tick = LEFT + layer["predicted_cycles"] * scale
        out.append(f'<path d="M{tick:.1f} {top + 1} v{ROW - 3}" stroke="#000000" stroke-width="1.5"/>')
        figures = f'{_grouped(layer["cycles"])} of {_grouped(layer["dense_cycles"])}'
        out.append(f'<text x="{left + 6:.1f}" y="{top + 12}">{figures}</text>')
    return "\n".join([*out, "</svg>", ""])
