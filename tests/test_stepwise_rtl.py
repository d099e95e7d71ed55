"""The whole machine with firing = "stepwise", over its AXI ports, against the golden model: every layer of every time step."""
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim.golden.stepwise as stepwise
from hwgen.config import MachineConfig, machine_config
from hwgen.emit import emit
from hwgen.multipliers import multipliers
from hwgen.program import CompileError, compile_network
from model.config import Config, MaskingConfig, QuantizeConfig, TrainConfig, read_model
from model.masking import SpikeMask
from quantize.random_network import random_images, random_network
from sim.fast.verify_all import verify_all
from sim.matrix import CASES, Case
from sim.report import write_report
from sim.run import Outcome, simulate

pytestmark = pytest.mark.slow

KNOWN = {case.name: case for case in CASES}
KNOBS: dict[str, object] = {"lanes": 8, "fire_lanes": 4, "firing": "stepwise", "steps": 16}


@pytest.fixture(scope="module")
def builds() -> Path:
    """One folder for the whole file: the tests share builds, and the next run finds them."""
    return Path("rtl/build/benches/test_stepwise_rtl").resolve()


def config_of(case: Case, ratio: float) -> Config:
    return Config(case.name, case.model, MaskingConfig(sites=case.sites, ratio=ratio), TrainConfig(), QuantizeConfig(), {})


def run_case(builds: Path, name: str, steps: int | None, ratio: float, *, rows: int = 2, images: int = 1,
             **options: Any) -> Outcome:
    """One of the matrix's networks on a machine fitted to it, with `rows` attention rows."""
    case = KNOWN[name]
    return simulate(config_of(case, ratio), random_network(case.model, 1), random_images(case.model, 1, images),
                    folder=builds / f"{name}-{rows}", machine=machine_config({**KNOBS, "attention_rows": rows}), steps=steps,
                    **options)


@pytest.mark.parametrize(("name", "steps", "ratio", "rows", "images"), [
    ("w2-L7", 4, 0.0, 2, 2),          # two stages, windows of 4 tokens
    ("w2-L7", 16, 0.75, 2, 1),
    ("w4-3stages", 4, 0.9375, 4, 1),  # shifted windows, three stages
    ("w7-L1", 4, 0.75, 4, 1),         # 49 keys: rows beyond the last query are still divided when the layer is done
    ("w7-L1", 16, 0.0, 4, 1),
    ("w4-h24x5", 4, 0.25, 1, 1),      # a head of 24 channels in three spike words
])
def test_bit_exact_in_every_step(builds: Path, name: str, steps: int, ratio: float, rows: int, images: int) -> None:
    outcome = run_case(builds, name, steps, ratio, rows=rows, images=images)
    assert outcome.verdict.failures == []
    assert re.fullmatch(rf"PASS {images}/{images} images, \d+ layers in {steps} time steps, bit-exact; "
                        r"(\d+) cycles/image \(predicted \1\)", outcome.verdict.line())
    assert len(outcome.verdict.measured) == images * steps
    spikes = [step["counts"].sum() for step in outcome.trace.outputs.values() if "counts" in step]
    largest = [int(found["counts"].max()) for found in outcome.trace.outputs.values() if "counts" in found]
    assert min(spikes) > 0 and set(largest) == {1}


def test_all_steps_by_default_and_images_do_not_touch_each_other(builds: Path) -> None:
    case = KNOWN["w2-L7"]
    first, second = random_images(case.model, 5, 2)
    machine = machine_config({**KNOBS, "attention_rows": 2})
    outcome = simulate(config_of(case, 0.0), random_network(case.model, 1), np.stack([first, second, first]),
                       folder=builds / "w2-L7-2", machine=machine)
    assert outcome.verdict.failures == [] and outcome.verdict.steps == machine.steps == 16
    logits = outcome.trace.logits[15::16]
    assert (logits[0] == logits[2]).all() and (logits[0] != logits[1]).any()


def hard_reset(v: Any, charge: Any, threshold: Any) -> Any:
    spikes, left = real_integrate(v, charge, threshold)
    return spikes, np.where(spikes > 0, 0, left)


def forgotten(v: Any, charge: Any, threshold: Any) -> Any:
    return real_integrate(None, charge, threshold)


real_integrate = stepwise.integrate


@pytest.mark.parametrize(("owner", "attribute", "replacement", "message"), [
    (stepwise, "integrate", hard_reset, r"time step \d, \S+, token \d+, channel \d+"),
    (stepwise, "integrate", forgotten, r"time step [1-3], \S+, token \d+, channel \d+"),
    (SpikeMask, "at_step", lambda mask, step: mask, r"time step [1-3], \S+, token \d+, channel \d+"),
    (stepwise, "CURRENT_FRACTION", 3, r"time step \d, \S+attn, token \d+, channel \d+"),
], ids=["hard reset", "potential forgotten", "the same mask", "a coarse quotient"])
def test_a_wrong_golden_is_seen(builds: Path, monkeypatch: pytest.MonkeyPatch, owner: object, attribute: str, replacement: Any,
                                message: str) -> None:
    monkeypatch.setattr(owner, attribute, replacement)
    verdict = run_case(builds, "w2-L7", 4, 0.5).verdict
    assert verdict.mismatched_images == {0} and re.match(f"image 0, {message}", verdict.failures[0]), verdict.failures[0]
    assert verdict.line().startswith("FAIL 0/1 images, 19 layers in 4 time steps")


def test_compiled_path_and_report(builds: Path, tmp_path: Path) -> None:
    """The compiled path runs all time steps too; the report counts an image's steps together."""
    outcome = run_case(builds, "w2-L7", None, 0.5)
    config = config_of(KNOWN["w2-L7"], 0.5)
    network, images = random_network(config.model, 1), random_images(config.model, 2, 3)
    summary = verify_all(outcome.build, network, config.masking, images, every=2, processes=1, quiet=True, resume=False)
    assert summary.passed and summary.images == 3
    write_report(outcome, config, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "`stepwise`, 16 time steps" in text and "| potentials |" in text
    assert f"{round(outcome.verdict.cycles_per_image):,}" in text


@pytest.mark.parametrize(("kind", "more"), [("vgg", {"dense": [9]}), ("resnet", {}), ("resnet", {"shortcut": "projection"})],
                         ids=["vgg", "resnet", "projection"])
def test_convolutions(builds: Path, kind: str, more: dict[str, Any]) -> None:
    """Convolutions, residuals between them, and a head that takes spikes: every layer of every step, over the compiled path."""
    model = read_model({"kind": kind, "image_size": 8, "in_channels": 1, "classes": 5, "levels": 7, "widths": [6, 10],
                        "depths": [1, 1], **more})
    masking = MaskingConfig(("conv",), 0.25)
    network = random_network(model, 1)
    build = emit(network, machine_config({**KNOBS, "steps": 5}), masking, builds / "-".join([kind, *more]))
    summary = verify_all(build, network, masking, random_images(model, 2, 2), every=1, processes=1, quiet=True, resume=False)
    assert summary.passed and summary.traced == summary.images == 2, summary.failures


def test_the_serial_divider_is_only_there_where_it_is_needed(builds: Path) -> None:
    """Divided by a serial divider, multiplied by L with subtractions: the Verilog has neither operator."""
    outcome = run_case(builds, "w2-L7", 4, 0.0)
    text = outcome.build.verilog.read_text(encoding="utf-8")
    assert "divider" in text and multipliers(text) == []
    exact = emit(outcome.build.program.network, MachineConfig(lanes=8, fire_lanes=4), MaskingConfig(), builds / "exact")
    assert "divider" not in exact.verilog.read_text(encoding="utf-8")


def test_refusals(builds: Path) -> None:
    case = KNOWN["w2-L7"]
    network = random_network(case.model, 1)
    with pytest.raises(ValueError, match="steps must be 1 to 16 on this machine, not 17: .machine. steps says"):
        run_case(builds, "w2-L7", 17, 0.0)
    with pytest.raises(ValueError, match="steps = 4: this machine fires in one step: set"):
        simulate(config_of(case, 0.0), network, random_images(case.model, 1, 1), folder=builds / "exact", steps=4,
                 machine=machine_config({"lanes": 8, "fire_lanes": 4}))
    machine = machine_config({**KNOBS, "level_bits": 2})
    with pytest.raises(CompileError, match="levels = 7 needs level_bits = 3, the machine has 2"):
        compile_network(network, machine, MaskingConfig())
    few = dataclasses.replace(machine_config(KNOBS), neuron_potentials=5)
    with pytest.raises(CompileError, match="neuron_potentials: the network needs 1220, the machine has 5"):
        compile_network(network, few, MaskingConfig())
