"""The whole machine in simulation, over its AXI ports, against the golden model: many networks on one build."""
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import sim.run as sim_run
from hwgen.config import MachineConfig
from hwgen.emit import emit
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from quantize.layers import Gemm, Network
from quantize.random_network import random_images, random_network
from sim.__main__ import main as sim_main
from sim.matrix import CASES, Case, machine_for
from sim.run import Outcome, simulate
from sim.runner import run_bench
from sim.wrapper import WRAPPER

pytestmark = pytest.mark.slow

CHOSEN = [case for case in CASES if case.name in ("w2-L7", "w2-L1", "w4-L15", "w4-3stages", "w7-L1", "w2-h5", "w4-h24x5")]
BASE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1)


@pytest.fixture(scope="module")
def builds() -> Path:
    """One folder for the whole file: the tests share builds, and the next run finds them."""
    return Path("rtl/build/benches/test_top_rtl").resolve()


@pytest.fixture(scope="module")
def machine() -> MachineConfig:
    return machine_for(CHOSEN, BASE)


def run_case(case: Case, machine: MachineConfig, folder: Path, images: int = 1, **options: object) -> Outcome:
    config = Config(case.name, case.model, MaskingConfig(sites=case.sites, ratio=case.ratio), TrainConfig(), QuantizeConfig(), {})
    pictures = options.pop("pictures", None)
    if pictures is None:
        pictures = random_images(case.model, 1, images)
    return simulate(config, random_network(case.model, 1), pictures, folder=folder, machine=machine, **options)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.name)
def test_every_network_runs_on_the_same_verilog(case: Case, machine: MachineConfig, builds: Path) -> None:
    outcome = run_case(case, machine, builds / "one-machine")
    assert outcome.verdict.failures == []
    assert len(outcome.verdict.measured) == 1
    assert re.fullmatch(r"PASS 1/1 images, \d+ layers, bit-exact; (\d+) cycles/image \(predicted \1\)", outcome.verdict.line())


@pytest.mark.parametrize(("bits", "channels"), [(3, 6), (1, 2), (6, 4)])
def test_counts_of_events_enter_as_they_are(bits: int, channels: int, machine: MachineConfig, builds: Path) -> None:
    """In fewer bit planes than pixels have, in one spike word or two: a matter of the program alone, on the same Verilog."""
    model = dataclasses.replace(CHOSEN[0].model, in_channels=channels, in_bits=bits)
    case = dataclasses.replace(CHOSEN[0], name=f"events-{bits}", model=model)
    outcome = run_case(case, machine, builds / "one-machine")
    assert outcome.verdict.failures == []
    assert outcome.build.program.buffers["image"].groups == -(-bits // machine.planes)
    with pytest.raises(ValueError, match=f"images hold the value 200: this network takes 0 to {2**bits - 1}"):
        run_case(case, machine, builds / "one-machine", pictures=np.full((1, 16, 16, channels), 200, np.uint8))


def test_images_do_not_touch_each_other(machine: MachineConfig, builds: Path) -> None:
    case = dataclasses.replace(CHOSEN[0], ratio=0.0)
    first, second = random_images(case.model, 5, 2)
    outcome = run_case(case, machine, builds / "one-machine", pictures=np.stack([first, second, first]))
    assert outcome.verdict.failures == []
    assert (outcome.trace.logits[0] == outcome.trace.logits[2]).all()
    assert (outcome.trace.logits[0] != outcome.trace.logits[1]).any()


def test_mask_ratio_is_set_over_the_registers_and_masks_differ_by_image(machine: MachineConfig, builds: Path) -> None:
    image = random_images(CHOSEN[0].model, 5, 1)[0]
    outcome = run_case(CHOSEN[0], machine, builds / "one-machine", pictures=np.stack([image, image]), ratio=0.75,
                       first_image=41)
    assert outcome.verdict.failures == []
    assert (outcome.trace.outputs["s0.b0.fc1"]["counts"][0] != outcome.trace.outputs["s0.b0.fc1"]["counts"][1]).any()


def test_slow_streams_change_no_data(machine: MachineConfig, builds: Path) -> None:
    outcome = run_case(CHOSEN[0], machine, builds / "one-machine", images=2, idle=3, stall=3)
    kinds = {re.sub(r"\d+", "#", failure) for failure in outcome.verdict.failures}
    waits = {f"image #, {layer}: # cycles, predicted #" for layer in ("image", "head")}
    assert kinds <= waits, "only waiting cycles differ"
    assert kinds, "the streams did wait"


def mutated(network: Network, name: str, **change: object) -> Network:
    return dataclasses.replace(network, layers=tuple(
        dataclasses.replace(layer, **change) if layer.name == name else layer for layer in network.layers))


def test_a_wrong_golden_is_caught_with_layer_token_and_channel(machine: MachineConfig, builds: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(CHOSEN[0].model, 1)
    layer = network.layer("s0.b0.proj")
    assert isinstance(layer, Gemm)
    weight = layer.weight.copy()
    weight[3] = -weight[3]
    golden = sim_run.golden_trace
    monkeypatch.setattr(sim_run, "golden_trace",
                        lambda _, *args, **named: golden(mutated(network, "s0.b0.proj", weight=weight), *args, **named))
    outcome = run_case(CHOSEN[0], machine, builds / "one-machine")
    assert re.match(r"image 0, s0\.b0\.proj( \(residual\))?, token \d+, channel 3: -?\d+, expected -?\d+ \(\d+ of \d+ differ\)",
                    outcome.verdict.failures[0])
    assert outcome.verdict.line().startswith("FAIL 0/1 images")


def test_a_wrong_prediction_is_caught(machine: MachineConfig, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hwgen.schedule as schedule

    monkeypatch.setattr(schedule, "FETCH_CYCLES", schedule.FETCH_CYCLES + 1)
    outcome = run_case(CHOSEN[0], machine, builds / "one-machine")
    assert re.match(r"image 0, image: \d+ cycles, predicted \d+", outcome.verdict.failures[0])


SMALL = ModelConfig(image_size=8, in_channels=3, classes=12, patch=2, embedding=16, depths=(1, 2), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=7)
SMALL_CONFIG = """
[model]
image_size = 8
in_channels = 3
classes = 12
patch = 2
embedding = 16
depths = [1, 2]
heads = [1, 2]
window = 2
mlp_ratio = 2.0
levels = 7
[masking]
sites = "paper"
ratio = 0.25
[machine]
lanes = 8
fire_lanes = 8
rows_per_cycle = 1
weights = "initialised"
"""


def test_the_command_verifies_an_initialised_machine_and_writes_the_report(builds: Path, tmp_path: Path,
                                                                           capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.toml"
    config.write_text(SMALL_CONFIG)
    folder = builds / "initialised"
    assert sim_main(["run", "--config", str(config), "--random-weights", "7", "--images", "2", "--build", str(folder)]) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"PASS 2/2 images, 19 layers, bit-exact; \d+ cycles/image \(predicted \d+\)", said[-1])
    report = json.loads((folder / "report.json").read_text())
    assert report["rtl"]["mismatches"] == 0
    assert report["rtl"]["cycles_per_image"] == report["rtl"]["predicted_cycles_per_image"]
    assert all(layer["cycles"] == layer["predicted_cycles"] for layer in report["layers"])


def test_the_command_exits_with_1_on_a_mismatch(builds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "small.toml"
    config.write_text(SMALL_CONFIG)
    golden = sim_run.golden_trace

    def wrong(network: Network, *args: object, **named: object) -> object:
        layer = network.layer("embed")
        assert isinstance(layer, Gemm)
        assert layer.threshold is not None
        return golden(mutated(network, "embed", threshold=layer.threshold * 2), *args, **named)

    monkeypatch.setattr(sim_run, "golden_trace", wrong)
    folder = str(builds / "initialised")
    code = sim_main(["run", "--config", str(config), "--random-weights", "7", "--images", "1", "--build", folder])
    said = capsys.readouterr().out.strip().splitlines()
    assert code == 1
    assert re.match(r"FAIL 0/1 images, 19 layers; .*: image 0, embed", said[-1])


def test_icarus_agrees(any_icarus: str, builds: Path) -> None:
    config = Config("small", SMALL, MaskingConfig(ratio=0.5), TrainConfig(), QuantizeConfig(), {})
    outcome = simulate(config, random_network(SMALL, 3), random_images(SMALL, 3, 1), simulator=any_icarus,
                       folder=builds / "icarus", machine=MachineConfig(lanes=8, fire_lanes=4))
    assert outcome.verdict.failures == []


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    network, machine = random_network(SMALL, 3), MachineConfig(lanes=8, fire_lanes=4, attention_rows=1)
    made = [emit(network, machine, MaskingConfig(), tmp_path / name) for name in ("a", "b")]
    names = sorted(path.name for path in made[0].folder.iterdir())
    assert names == ["branches.hex", "filelist.f", "lint.vlt", "manifest.json", "mst_accelerator.v", "params.hex", "program.hex",
                     "rom.hex", "weights.hex"]
    for name in set(names) - {"filelist.f"}:  # it holds the folder
        assert (made[0].folder / name).read_bytes() == (made[1].folder / name).read_bytes(), name
    again = emit(random_network(SMALL, 4), made[0].machine, MaskingConfig(), tmp_path / "a")
    assert not again.regenerated, "another network of the same needs takes the same Verilog"
    assert (tmp_path / "a" / "weights.hex").read_bytes() != (tmp_path / "b" / "weights.hex").read_bytes()


def test_mishaps_are_reported_and_leave_no_trace(machine: MachineConfig, builds: Path) -> None:
    outcome = run_case(CHOSEN[0], machine, builds / "one-machine", ratio=0.25)
    work = outcome.build.folder / "sim"
    results = run_bench(name="errors", toplevel=WRAPPER, sources=[outcome.build.verilog, work / f"{WRAPPER}.v"],
                        test_module="sim.tb.tb_top_errors", build_dir=work, env={"MST_JOB": str(work / "job.json")})
    assert results.failed == 0, results.summary()
    assert results.passed == 1
