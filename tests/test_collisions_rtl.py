"""No client of a memory relies on a word that it reads while that word is being written: such a read gives the wrong word here.

A block RAM does not say which word it gives then, and `hwgen.memory.UNCHECKED` lets Yosys take it as it is.
"""
import re
from pathlib import Path

import pytest

import hwgen.emit
from hwgen.config import MachineConfig, machine_config
from hwgen.memory import UNCHECKED
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from quantize.random_network import random_images, random_network
from sim.fast.single import run_single
from sim.run import simulate

MASKING = MaskingConfig(sites=("q", "k", "scores", "fc1", "fc2"), ratio=0.25)
MODEL = ModelConfig(image_size=16, in_channels=3, classes=5, patch=2, embedding=16, depths=(2, 1), heads=(2, 4), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINES = {
    "loaded": MachineConfig(lanes=16, fire_lanes=4, attention_rows=2),
    "stepwise": machine_config({"lanes": 16, "fire_lanes": 4, "attention_rows": 2, "firing": "stepwise", "steps": 3}),
    "streamed": MachineConfig(lanes=16, fire_lanes=4, memory_bits=64, spike_words=160, stream_words=128),
}
MEMORY = re.compile(rf"\(\* {next(iter(UNCHECKED))} = 32'd1 \*\)\n  reg \[\d+:0\] (\S+) \[")
ANYWHERE, SAME = "{enable}", "({enable}) && {write} == {read}"


def spoiled(verilog: str, when: str) -> tuple[str, int]:
    """Each read of a marked memory gives the complement of the word where `when` holds; and the number of such reads."""
    modules, spoilt = re.split(r"(?m)^(?=module )", verilog), 0
    for number, module in enumerate(modules):
        for name in map(re.escape, MEMORY.findall(module)):
            write = re.search(rf"if \(([^\n]+)\)\n      {name}\[([^\n]+)\] <= ", module)
            assert write, "a marked memory that is never written needs no mark"
            reads = re.compile(rf"<= ({name}\[([^\n]+)\]);")
            module, found = reads.subn(
                lambda read, write=write: f"<= {when.format(enable=write[1], write=write[2], read=read[2])} ? ~{read[1]} : "
                                          f"{read[1]};", module)
            assert found, name
            spoilt += found
        modules[number] = module
    return "".join(modules), spoilt


def failures(kind: str, when: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What differs from the golden model on a machine whose memories are spoiled so."""
    convert = hwgen.emit.convert

    def spoil(*arguments: object) -> str:
        text, reads = spoiled(convert(*arguments), when)
        assert reads >= 8  # spikes, residuals, program, parameters, ROM, weights
        return text

    monkeypatch.setattr(hwgen.emit, "convert", spoil)
    network, images = random_network(MODEL, 3), random_images(MODEL, 7, 2)
    if kind == "streamed":
        build = hwgen.emit.emit(network, MACHINES[kind], MASKING, folder)
        return run_single(build, images[0], MASKING, ratio=MASKING.ratio).verdict.failures
    config = Config(kind, MODEL, MASKING, TrainConfig(), QuantizeConfig(), {})
    return simulate(config, network, images, folder=folder, machine=MACHINES[kind]).verdict.failures


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(MACHINES))
def test_words_read_while_they_are_written_are_never_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures(kind, SAME, Path(f"rtl/build/benches/test_collisions_rtl/{kind}").resolve(), monkeypatch) == []


@pytest.mark.slow
def test_words_that_are_used_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failures("loaded", ANYWHERE, Path("rtl/build/benches/test_collisions_rtl/anywhere").resolve(), monkeypatch)
