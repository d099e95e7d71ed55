"""The SoC in RTL simulation: the firmware on a RISC-V core drives the machine, and nothing of a mishap is left afterwards."""
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from firmware.build import FirmwareError, rv32_compiler
from hwgen.config import MachineConfig
from hwgen.packed import HEADER
from model.config import MaskingConfig, ModelConfig
from quantize.random_network import random_images, random_network
from sim.runner import SimulationFailed
from sim.soc import __main__ as soc_main
from sim.soc import run as soc
from sim.soc.run import Run, SocError, cpu_source, judge, simulate_soc

MODEL = ModelConfig(image_size=8, in_channels=3, classes=10, patch=2, embedding=16, depths=(1,), heads=(2,), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, head_lanes=8, window_tokens=4)
FOLDER = Path("rtl/build/benches/test_soc_rtl").resolve()


@pytest.fixture
def tools() -> None:
    try:
        rv32_compiler()
        cpu_source()
    except (FirmwareError, SocError) as error:
        pytest.skip(str(error))


def simulate(**more: object) -> Run:
    return simulate_soc(random_network(MODEL, 1), MACHINE, MaskingConfig(ratio=0.25), random_images(MODEL, 1, 2), FOLDER,
                        **more)  # type: ignore[arg-type]


@pytest.mark.slow
def test_nothing_is_left_of_mishaps(tools: None) -> None:
    """Same image twice, another between, aborts at three places, half a packet, errors: the same logits and cycles each time."""
    run = simulate(mishaps=True, cycles=20_000_000)
    assert run.failures == [] and run.passed, run.text
    assert [index for index, *_ in run.images] == [0, 1, 0, 1] + 8 * [0]
    assert len({(index, number, cycles, tuple(logits)) for index, number, cycles, logits in run.images}) == 2
    steps = [line for line in run.text.splitlines() if ": " in line and "class" not in line]
    assert steps == ["abort: OK"] * 3 + ["abort with a packet half sent: OK", "a short image: STREAM_SHORT",
                                         "a start too many: BUSY", "no image at all: TIMEOUT"]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "line"), [
    (4 * len(HEADER) + 400, "FAIL load: NETWORK_CRC, "),
    (0, "FAIL load: NETWORK_MAGIC, "),
    (-1, "FAIL logits differ from the golden model's"),
])
def test_a_spoiled_flash_is_noticed(tools: None, spoil: int, line: str) -> None:
    run = simulate(spoil=spoil, cycles=20_000_000)
    assert not run.passed and line in run.text


@pytest.mark.slow
def test_built_in_weights(tools: None) -> None:
    """A machine with its network built in: nothing is loaded."""
    network, images = random_network(MODEL, 1), random_images(MODEL, 1, 1)
    machine = dataclasses.replace(MACHINE, weights="initialised")
    folder = FOLDER.with_name(f"{FOLDER.name}-initialised")
    run = simulate_soc(network, machine, MaskingConfig(), images, folder, cycles=20_000_000)
    assert run.failures == [] and f"network of {4 * len(HEADER)} bytes loaded" in run.text, run.text


@pytest.mark.slow
def test_a_cpu_that_does_not_stop(tools: None) -> None:
    with pytest.raises(SimulationFailed, match=r"did not stop by itself \(exit 3\): 1000 cycles"):
        simulate(cycles=1000)


LINES = "image 0: class 1, 10 cycles, logits 3 5\nimage 1: class 0, 10 cycles, logits -1 -2\n"


@pytest.mark.parametrize(("text", "failures"), [
    (LINES + "PASS\n", []),
    (LINES, ["the firmware ends with 'image 1: class 0, 10 cycles, logits -1 -2', not PASS"]),
    (LINES.replace("-2", "2") + "PASS\n", ["image 1: logits [-1, 2], golden [-1, -2]"]),
    (LINES.replace("class 0", "class 1") + "PASS\n", ["image 1: class 1, golden 0"]),
    (LINES.splitlines()[0] + "\nPASS\n", ["image 1: nothing was said of it"]),
    ("", ["image 0: nothing was said of it", "image 1: nothing was said of it", "the firmware ends with '', not PASS"]),
])
def test_judge(text: str, failures: list[str]) -> None:
    assert judge(text, np.array([[3, 5], [-1, -2]], np.int32)).failures == failures


def test_missing_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SocError, match=r"PicoRV32 not found: pip install pythondata-cpu-picorv32==1\.0\.post218"):
        cpu_source()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--config", "none.toml"], "none.toml"),
    (["--config", "configs/cifar10-tiny.toml", "--images", "0"], "--images must be at least 1, not 0"),
    (["--config", "configs/cifar10-tiny.toml", "--images-file", "README.md"], "README.md"),
])
def test_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert soc_main.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(folder: Path) -> Path:
        raise FirmwareError("riscv64-unknown-elf-gcc not found: apt-get install gcc-riscv64-unknown-elf")

    monkeypatch.setattr(soc, "soc_image", missing)
    monkeypatch.setattr(soc, "cpu_source", lambda: Path("cpu.v"))
    assert soc_main.main(["--config", "configs/cifar10-tiny.toml"]) == 2
    assert capsys.readouterr().err == "riscv64-unknown-elf-gcc not found: apt-get install gcc-riscv64-unknown-elf\n"
