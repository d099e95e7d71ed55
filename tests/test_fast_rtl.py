"""The compiled path on a small machine: bit-exact with and without mask, red where anything is wrong, resumable."""
import dataclasses
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sim.fast.harness as harness
import sim.fast.verify_all as verify_all_module
from hwgen.config import MachineConfig
from hwgen.emit import Build, emit
from hwgen.files import BusyError, claimed
from model.config import MaskingConfig, ModelConfig
from model.masking import SpikeMask
from quantize.layers import Gemm, Network
from quantize.random_network import random_images, random_network
from sim.__main__ import main as sim_main
from sim.fast import Halted, build, run
from sim.fast.script import SNAPSHOT, Op, command
from sim.fast.verify_all import Summary, verify_all
from sim.golden.network import run as golden
from sim.host import MachineError
from sim.job import Answer as JobAnswer
from sim.runner import SimulationFailed
from sim.trace_file import TRACE_SUFFIX, TraceError, read_trace
from sim.verify import verify

pytestmark = pytest.mark.slow

MODEL = ModelConfig(image_size=8, in_channels=3, classes=12, patch=2, embedding=16, depths=(1, 2), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=7)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, attention_rows=1, head_lanes=16, window_tokens=4, acc_bits=24)
MASKING = MaskingConfig(sites=("q", "k", "scores", "fc1", "fc2"), ratio=0.25)
CONFIG = """
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
fire_lanes = 4
attention_rows = 1
"""


@pytest.fixture(scope="module")
def builds() -> Path:
    """One folder for the whole file: the tests share builds, and the next run finds them."""
    return Path("rtl/build/benches/test_fast_rtl").resolve()


@pytest.fixture(scope="module")
def small(builds: Path) -> Build:
    return emit(random_network(MODEL, 1), MACHINE, MASKING, builds / "small")


@pytest.fixture(scope="module")
def program(small: Build) -> Path:
    return build(small, trained=True)


@pytest.fixture(scope="module")
def savable(small: Build) -> Path:
    return build(small, savable=True)


def judge(built: Build, images: np.ndarray, answers: list, folder: Path, first: int, traced: list[int],
          masking: MaskingConfig = MASKING) -> list[str]:
    """Failures of `answers` against the golden model: logits of all, layers and cycles of the traced ones."""
    mask = SpikeMask.of(masking)
    want = golden(built.program.network, images, mask=mask, first_image=first, keep=False).logits
    failures = [f"logits of image {answer.image}" for answer, logits in zip(answers, want, strict=True)
                if not np.array_equal(answer.logits, logits)]
    for index in traced:
        one, answer = images[index - first][None], answers[index - first]
        seen = JobAnswer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, index + 1)
        trace = golden(built.program.network, one, mask=mask, first_image=index)
        failures += verify(built.program, trace, one, seen, folder / f"{index}{TRACE_SUFFIX}").failures
    return failures


@pytest.mark.parametrize("ratio", [None, 0.0, 0.75])
def test_logits_layers_and_cycles_are_the_goldens(small: Build, program: Path, tmp_path: Path, ratio: float | None) -> None:
    images = random_images(MODEL, 3, 5)
    masking = MASKING if ratio is None else dataclasses.replace(MASKING, ratio=ratio)
    answers = run(small, images, program=program, folder=tmp_path, seed=MASKING.seed,
                  ratio=None if ratio is None else masking.ratio256, first_image=41, traced=[41, 44])
    assert [answer.image for answer in answers] == [41, 42, 43, 44, 45]
    assert judge(small, images, answers, tmp_path, 41, [41, 44], masking) == []
    assert not (tmp_path / f"42{TRACE_SUFFIX}").exists()
    other = golden(small.program.network, images, mask=SpikeMask.of(masking), first_image=40, keep=False).logits
    differ = any((answer.logits != logits).any() for answer, logits in zip(answers, other, strict=True))
    assert differ == (masking.ratio > 0), "masks differ by image"


def test_ratios_by_site_and_block(small: Build, program: Path, builds: Path, tmp_path: Path) -> None:
    """The same machine, other descriptors: every site of every block at a ratio of its own, from program and registers."""
    masking = MaskingConfig(("q", "scores"), 0.5, ratios=(("fc1", 0.25), ("s0.b0.k", 0.875), ("s1.b0.fc2", 0.75),
                                                         ("s1.b1.q", 0.0), ("s1.b1.scores", 0.25)))
    own = emit(small.program.network, MACHINE, masking, builds / "ratios")
    assert own.design_id == small.design_id, "ratios are the program's"
    images = random_images(MODEL, 6, 2)
    for ratio in (None, 0.125):
        wanted = masking if ratio is None else masking.at(ratio)
        answers = run(own, images, program=program, folder=tmp_path, seed=masking.seed,
                      ratio=None if ratio is None else wanted.ratio256, traced=[0, 1])
        assert judge(own, images, answers, tmp_path, 0, [0, 1], wanted) == []
    assert judge(own, images, answers, tmp_path, 0, [0, 1], masking) != [], "other ratios give other spikes"


def flipped(network: Network, name: str) -> Network:
    """`network` with the sign of one channel's weights turned."""
    layer = network.layer(name)
    assert isinstance(layer, Gemm)
    weight = layer.weight.copy()
    weight[3] = -weight[3]
    return dataclasses.replace(network, layers=tuple(
        dataclasses.replace(entry, weight=weight) if entry.name == name else entry for entry in network.layers))  # type: ignore[arg-type]


def test_a_wrong_golden_is_caught(small: Build, program: Path, tmp_path: Path) -> None:
    images = random_images(MODEL, 3, 1)
    answers = run(small, images, program=program, folder=tmp_path, seed=MASKING.seed, traced=[0])
    network = flipped(small.program.network, "s1.b0.fc1")
    wrong = dataclasses.replace(small, program=dataclasses.replace(small.program, network=network))
    found = judge(wrong, images, answers, tmp_path, 0, [0])
    assert any(re.match(r"image 0, s1\.b0\.fc1, token \d+, channel 3: \d, expected \d", failure) for failure in found), found


def test_a_changed_trace_is_caught(small: Build, program: Path, tmp_path: Path) -> None:
    images = random_images(MODEL, 3, 1)
    answers = run(small, images, program=program, folder=tmp_path, seed=MASKING.seed, traced=[0])
    file = tmp_path / f"0{TRACE_SUFFIX}"
    good = file.read_bytes()
    at = good.index(b"S\0\0\0", 12 + 4000) + 8
    file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
    assert judge(small, images, answers, tmp_path, 0, [0]) != []
    file.write_bytes(good[:-20])
    with pytest.raises(TraceError, match="broken off"):
        list(read_trace(file))


def test_the_machines_errors_and_hangs_end_the_run(small: Build, program: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.fast.script as scripts

    images = random_images(MODEL, 3, 2)
    packet = scripts.image_packet
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "image_packet", lambda *args: packet(*args)[:-8])
        with pytest.raises(MachineError, match="STREAM_SHORT"):
            run(small, images, program=program, folder=tmp_path, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "image_packet", lambda *args: packet(*args)[:-3])
        with pytest.raises(SimulationFailed, match="not whole beats"):
            run(small, images, program=program, folder=tmp_path, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "PATIENCE", 20_000)
        lost = packet(images[0], MODEL.patch, small.machine.bus_bytes)
        patch.setattr(scripts, "command", lambda op, *args, **named: b"" if op == Op.SEND and named["payload"] == lost
                      else command(op, *args, **named))
        with pytest.raises(SimulationFailed, match="image 0: no answer: waited 20000 cycles for a result"):
            run(small, images, program=program, folder=tmp_path, seed=1)
    with pytest.raises(SimulationFailed, match="BUILD_ID is 0x[0-9a-f]+, expected 0x1$"):
        other = dataclasses.replace(small, design_id="00000001" + small.design_id[8:])
        run(other, images, program=program, folder=tmp_path, seed=1)
    with pytest.raises(ValueError, match="uint8"):
        run(small, images[:, :4], program=program, folder=tmp_path, seed=1)


def test_a_snapshot_goes_on_as_if_nothing_had_happened(small: Build, savable: Path, program: Path, tmp_path: Path) -> None:
    images = random_images(MODEL, 3, 2)
    arguments = {"seed": MASKING.seed, "traced": [7, 8], "first_image": 7}
    whole = run(small, images, program=program, folder=tmp_path / "whole", **arguments)
    folder = tmp_path / "parts"
    halts = 0
    while True:
        try:
            parts = run(small, images, program=savable, folder=folder, snapshot_seconds=0, halt_after=5, **arguments)
            break
        except Halted as halted:
            halts += 1
            assert (folder / SNAPSHOT).exists()
            if halts == 2:  # what was written after the snapshot is cut off again
                with next(iter(folder.glob(f"*{TRACE_SUFFIX}.part"))).open("ab") as file:
                    file.write(b"rest of a run that was killed")
            assert 0 < halted.descriptor < len(small.program.steps)
    layers = len(small.program.layers)
    assert halts == (2 * (layers - 1 + 1) - 1) // 5, "one snapshot a layer"
    assert not (folder / SNAPSHOT).exists()
    for one, other in zip(whole, parts, strict=True):
        assert (one.image, one.cycles, one.events) == (other.image, other.cycles, other.events)
        assert np.array_equal(one.logits, other.logits)
    for index in (7, 8):
        name = f"{index}{TRACE_SUFFIX}"
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert judge(small, images, parts, folder, 7, [7, 8]) == []


def test_a_snapshot_of_another_job_is_refused(small: Build, savable: Path, program: Path, tmp_path: Path) -> None:
    images = random_images(MODEL, 3, 1)
    with pytest.raises(Halted):
        run(small, images, program=savable, folder=tmp_path, seed=1, snapshot_seconds=0, halt_after=1)
    with pytest.raises(SimulationFailed, match="of another build or another job: delete it"):
        run(small, images, program=savable, folder=tmp_path, seed=2, snapshot_seconds=0)
    with pytest.raises(SimulationFailed, match="savable=True"):
        run(small, images, program=program, folder=tmp_path, seed=1, snapshot_seconds=0)
    assert run(small, images, program=savable, folder=tmp_path, seed=1, snapshot_seconds=0)[0].cycles


def test_a_training_run_that_fails_is_told(small: Build, tmp_path: Path) -> None:
    refusing = tmp_path / "refusing"
    refusing.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    refusing.chmod(0o755)
    with pytest.raises(SimulationFailed, match="refusing: the training run failed: no such luck$"):
        harness._train(small, refusing, tmp_path / "train")


def whole_set(small: Build, images: np.ndarray, **options: object) -> Summary:
    return verify_all(small, small.program.network, MASKING, images, every=3, quiet=True, **options)  # type: ignore[arg-type]


def test_verify_all_passes_and_goes_on_after_a_break(small: Build, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_all_module, "CHUNK", 4)
    images, seen = random_images(MODEL, 9, 14), []
    real = verify_all_module.run_harness

    def broken(*args: object, **named: object) -> object:
        seen.append(named["first_image"])
        if named["first_image"] == 8:
            raise SimulationFailed("killed")
        return real(*args, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(verify_all_module, "run_harness", broken)
        with pytest.raises(SimulationFailed, match="killed"):
            whole_set(small, images, processes=1, resume=False)
    assert seen == [0, 4, 8]
    summary = whole_set(small, images, processes=2)
    assert summary.passed and summary.failures == ()
    assert (summary.images, summary.ran, summary.traced, summary.layers) == (14, 6, 5, len(small.program.layers))
    again = whole_set(small, images)
    assert again.passed and again.ran == 0
    assert "nothing left to run" in again.line()


def test_verify_all_fails_on_a_wrong_golden(small: Build, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_all_module, "CHUNK", 4)
    wrong = flipped(small.program.network, "s0.b0.proj")
    summary = verify_all(small, wrong, MASKING, random_images(MODEL, 9, 8), every=100, processes=1, quiet=True, resume=False)
    assert not summary.passed
    assert re.match(r"FAIL \d+/8 images bit-exact, .*: image \d+, ", summary.line())
    assert summary.ran == 4, "it stops at the first wrong chunk"
    assert any("s0.b0.proj" in failure for failure in summary.failures)


def test_two_runs_do_not_share_a_folder(small: Build, program: Path) -> None:
    images = random_images(MODEL, 9, 2)
    whole_set(small, images)
    folder = small.folder / "verify-all" / verify_all_module._key(small, small.program.network, MASKING, program, images, 3)
    with claimed(folder), pytest.raises(BusyError, match="another run is at work there"):
        whole_set(small, images)


@pytest.mark.parametrize(("options", "message"), [
    ({"processes": 0}, "processes must be at least 1, not 0"), ({"every": -1}, "every must be at least 1, not -1")])
def test_bad_numbers_are_refused(small: Build, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_all(small, small.program.network, MASKING, random_images(MODEL, 9, 1), **options)


def test_the_command_survives_a_kill(builds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = tmp_path / "small.toml", builds / "command"
    config.write_text(CONFIG)
    arguments = ["verify-all", "--config", str(config), "--random-weights", "7", "--build", str(folder), "--processes", "1"]
    process = subprocess.Popen([sys.executable, "-m", "sim", *arguments, "--images", "1000", "--no-resume"],
                               stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.glob("verify-all/*/chunk-0.json")):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = {file: file.stat().st_mtime_ns for file in folder.glob("verify-all/*/chunk-*.json")}
    assert known
    assert sim_main([*arguments, "--images", "1000"]) == 0
    said = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"PASS 1000/1000 images bit-exact, 10 images x 19 layers, \d+ cycles/image, ", said[-1])
    assert known == {file: file.stat().st_mtime_ns for file in known}, "what was known was not done again"


def test_the_command_exits_with_1_on_a_mismatch(builds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "small.toml"
    config.write_text(CONFIG)
    real = verify_all_module.golden_trace
    monkeypatch.setattr(verify_all_module, "golden_trace",
                        lambda network, *args, **named: real(flipped(network, "s0.merge"), *args, **named))
    code = sim_main(["verify-all", "--config", str(config), "--random-weights", "7", "--build", str(builds / "command"),
                     "--images", "3", "--mask", "0.5", "--no-resume"])
    said = capsys.readouterr()
    assert code == 1
    assert said.out.strip().splitlines()[-1].startswith("FAIL ")


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "nowhere"], "nowhere/cifar-10-batches-py: no such folder: unpack cifar-10-python.tar.gz"),
    (["--mask", "1.5"], "multiple of 1/256"), (["--random-weights", "1", "--images", "0"], "at least 1, not 0")])
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim_main(["verify-all", "--config", "configs/cifar10-tiny.toml", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
