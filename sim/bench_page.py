"""The part of docs/results.md that `make bench` writes: between two marks, everything else stays."""
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwgen.files import write_if_changed

BEGIN, END = "<!-- make bench: begin -->", "<!-- make bench: end -->"

WANTED = {
    "bound_ratio": ("cycles of a whole image over the bound", "at most 1.15"),
    "attention_share": ("attention's share of all cycles", "at most 0.20"),
    "dense_bitserial_ratio": ("dense bit-serial over this machine, cycles", "at least 4"),
    "dense_timestep_ratio": ("dense time-stepped SNN over this machine, cycles", "at least 10"),
    "masked_cycles_ratio": ("cycles kept over events kept in masked layers, RSM 75 %", "1 within 0.03"),
    "stall_share": ("stalled cycles where the bandwidth suffices", "at most 0.05"),
    "fmax_mhz": ("clock after place and route, LFE5U-85F-6, best seed, MHz", "at least 100"),
    "lut_fraction": ("share of its LUTs", "at most 0.60"),
    "estimate_error": ("worst error of the resource estimate", "at most 0.15"),
    "sim_speedup": ("compiled simulation over the cocotb bench, images/s", "at least 20"),
    "golden_vs_torch": ("golden's time over torch's float QCFS forward", "at most 1.5"),
    "golden_vs_spikingjelly": ("golden's speed over SpikingJelly, step by step, T = 16", "at least 10"),
    "rtl_seconds": ("seconds from network file to Verilog, 64 lanes", "at most 30"),
}
"""What each figure is, and what was asked for (issue 3)."""


def write_page(page: Path, figures: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace what stands between the marks of `page`; ValueError when it has none."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page}: needs the marks {BEGIN} and {END}, once each")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    write_if_changed(page, head + BEGIN + "\n" + "\n".join(_lines(figures, sections)) + "\n" + END + tail)


def _number(value: Any) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}" if isinstance(value, float) \
        else str(value)


def _lines(figures: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> list[str]:
    where = {key: name for name, found in sections.items() for key in found}
    lines = ["| figure | measured | asked | section |", "|---|---|---|---|"]
    lines += [f"| {meaning} (`{key}`) | {_number(figures.get(key))} | {asked} | {where.get(key, '-')} |"
              for key, (meaning, asked) in WANTED.items()]
    lines += ["", "Each section by `python -m sim.bench --config configs/cifar10-tiny.toml --only SECTION`; all by `make bench`."]
    if found := sections.get("utilisation"):
        lines += ["", f"**Utilisation.** {found['images']} images in RTL, every layer bit-exact, predicted = measured: "
                      f"{_number(found['cycles_per_image'])} cycles an image; bound {_number(found['gemm_bound_per_image'])} for "
                      f"GEMM layers and {_number(found['attention_bound_per_image'])} for attention (docs/architecture.md). "
                      f"Without any bound for attention the ratio is {_number(found['bound_ratio_gemm_only'])}."]
    if found := sections.get("skipping"):
        lines += ["", "**Zero and mask skipping**, means of the sample images, by the exact cycle model:", "",
                  "| run on the same array | cycles an image | times ours | weight rows read | energy, uJ (modelled) |",
                  "|---|---|---|---|---|"]
        ours = found["ways"][4]["cycles"]
        lines += [f"| {way['name']} | {way['cycles']:,.0f} | {way['cycles'] / ours:.2f} | {way['events']:,.0f} | "
                  f"{'-' if way['energy_pj'] is None else format(way['energy_pj'] / 1e6, '.1f')} |" for way in found["ways"]]
        lines += ["", "| masked layer (RSM 75 %) | events kept | cycles kept | cycles over events | cycles over the bound | "
                      "paced by |", "|---|---|---|---|---|---|"]
        lines += [_masked("cifar10-tiny", layer) for layer in found["masked_layers"]]
        large = found["masked_layers_swin_t"]
        cycles = sum(layer["cycles"] for layer in large)
        for pace in sorted({layer["paced_by"] for layer in large}):
            of_these = [layer for layer in large if layer["paced_by"] == pace]
            excess = [layer["cycles_kept"] / layer["events_kept"] for layer in of_these]
            over = [layer["over_bound"] for layer in of_these]
            share = sum(layer["cycles"] for layer in of_these) / cycles
            lines += [f"| swin-t: {len(of_these)} of {len(large)} layers, {share:.0%} of their cycles | | | {_span(excess)} | "
                      f"{_span(over)} | {pace} |"]
        lines += ["", "Together, on other machines (each layer's excess is what paces it there):", "",
                  "| network | lanes | fire lanes | rows a cycle | cycles kept over events kept | layers within 3 % | cycles of "
                  "these layers |", "|---|---|---|---|---|---|---|"]
        lines += [f"| {row['network']} | {row['lanes']} | {row['fire_lanes']} | {row['rows_per_cycle']} | {row['ratio']:.3f} | "
                  f"{row['within']} of {row['layers']} | {row['cycles']:,} |" for row in found["masked_machines"]]
    if found := sections.get("streaming"):
        lines += ["", f"**External memory.** cifar10-tiny on a 64-lane machine with {found['machine']}: "
                      f"{found['bytes'] / 1e6:.2f} MB an image, latency {found['latency']}, RTL, bit-exact:", "",
                  "| beats a cycle | cycles | stalled | bandwidth bound | cycles over it | predicted cycles |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [f"| {row['beats_per_cycle']} | {row['cycles']:,} | {100 * row['stall_share']:.1f} % | "
                  f"{row['bandwidth_bound']:,.0f} | {row['over_bandwidth_bound']:.3f} | {row['predicted_cycles']:,} |"
                  for row in found["speeds"]]
    return lines


def _masked(network: str, layer: Mapping[str, Any]) -> str:
    kept, cycles = layer["events_kept"], layer["cycles_kept"]
    return (f"| {network} {layer['layer']} | {kept:.3f} | {cycles:.3f} | {cycles / kept:.2f} | {layer['over_bound']:.2f} | "
            f"{layer['paced_by']} |")


def _span(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"
