"""Machines with external memory in RTL: networks that do not fit them, every layer bit-exact, every beat accounted for."""
import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.descriptors import Memory
from hwgen.emit import EXTERNAL, Build, emit
from hwgen.timeline import MemoryTiming
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from quantize.random_network import random_images, random_network
from sim.fast import single as single_module
from sim.fast.harness import Halted
from sim.fast.single import run_single
from sim.run import simulate
from sim.traffic import write_single_report

pytestmark = pytest.mark.slow

MODEL = ModelConfig(image_size=16, in_channels=3, classes=5, patch=2, embedding=16, depths=(2, 1), heads=(2, 4), window=2,
                    mlp_ratio=2.0, levels=7)
NETWORK = random_network(MODEL, 3)
MASKING = MaskingConfig(sites=("q", "k", "scores", "fc1", "fc2"), ratio=0.75)
MACHINES = {
    "narrow": MachineConfig(lanes=16, fire_lanes=4, memory_bits=64, spike_words=160, stream_words=128),
    "wide": MachineConfig(lanes=32, fire_lanes=8, memory_bits=512, memory_burst=4, memory_outstanding=2, spike_words=220,
                          stream_words=130),
}
UNMASKED = dataclasses.replace(MASKING, ratio=0.0)
SPEEDS = [MemoryTiming(30, Fraction(1)), MemoryTiming(100, Fraction(1, 4))]


@pytest.fixture(scope="module")
def builds() -> Path:
    return Path("rtl/build/benches/test_streaming_rtl").resolve()


@pytest.fixture(scope="module", params=list(MACHINES))
def build(request: pytest.FixtureRequest, builds: Path) -> Build:
    return emit(NETWORK, MACHINES[request.param], MASKING, builds / request.param)


@pytest.mark.parametrize("timing", SPEEDS, ids=["fast", "slow"])
@pytest.mark.parametrize("ratio", [0.0, 0.75])
def test_every_layer_is_exact(build: Build, timing: MemoryTiming, ratio: float) -> None:
    masking = dataclasses.replace(MASKING, ratio=ratio)
    found = run_single(build, random_images(MODEL, 7, 1)[0], masking, ratio=ratio, timing=timing)
    assert found.verdict.failures == []
    program, answer = build.program, found.answer
    assert answer.memory[0] == sum(move.beats for move in program.reads)
    assert answer.memory[1] == sum(move.beats for move in program.writes)
    assert sum(found.verdict.measured[0].values()) == answer.cycles
    assert answer.cycles >= (answer.memory[0] + answer.memory[1]) / timing.bandwidth


def test_the_model_of_transfers_is_close(build: Build) -> None:
    """Both count cycles, so the figures are the same on every machine: the model of bursts is within 3 % here."""
    for timing in SPEEDS:
        found = run_single(build, random_images(MODEL, 7, 1)[0], UNMASKED, ratio=0.0, timing=timing)
        assert abs(found.verdict.predicted_per_image / found.answer.cycles - 1) < 0.03


def test_a_wrong_weight_in_memory_is_seen(build: Build) -> None:
    file = build.folder / EXTERNAL
    whole = file.read_bytes()
    constant = next(move for move in build.program.reads if move.layer == "s0.b1.fc1" and move.memory == Memory.WEIGHTS)
    at = constant.address * build.machine.memory_bits // 8
    try:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x7F]) + whole[at + 1:])
        found = run_single(build, random_images(MODEL, 7, 1)[0], UNMASKED, ratio=0.0)
    finally:
        file.write_bytes(whole)
    assert found.verdict.failures and "s0.b1.fc1, token" in found.verdict.failures[0]


def test_a_broken_off_run_goes_on(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at a saved state twice, the third call finishes, and every layer is there."""
    monkeypatch.setattr(single_module, "SNAPSHOT_SECONDS", 0)
    image = random_images(MODEL, 8, 1)[0]
    descriptors = []
    for _ in range(2):
        with pytest.raises(Halted) as halted:
            run_single(build, image, UNMASKED, ratio=0.0, halt_after=3)
        descriptors.append(halted.value.descriptor)
    assert 0 < descriptors[0] < descriptors[1]
    found = run_single(build, image, UNMASKED, ratio=0.0)
    assert found.verdict.failures == [] and len(found.verdict.measured[0]) == len(build.program.layers)
    report = write_single_report(build, found, MemoryTiming()).read_text()
    assert found.verdict.line() in report and "| s0.b0.attn |" in report


def test_images_follow_each_other(builds: Path) -> None:
    """The cocotb bench: the same image twice and another between, over the host driver, at a base that is not 0."""
    config = Config("streamed", MODEL, MASKING, TrainConfig(), QuantizeConfig(), {})
    first, second = random_images(MODEL, 5, 2)
    outcome = simulate(config, NETWORK, np.stack([first, second, first]), ratio=0.0, folder=builds / "cocotb",
                       machine=MACHINES["narrow"], memory=MemoryTiming(20, Fraction(1, 2)))
    assert outcome.verdict.failures == []
    assert (outcome.trace.logits[0] == outcome.trace.logits[2]).all()
    assert outcome.verdict.stalls > 0
