"""The attention unit against the golden model and its cycle model; its descriptor; and that the bench can fail."""
from pathlib import Path

import pytest

from hwgen.attention_cycles import AttentionShape, attention_cycles
from hwgen.attention_desc import AttentionDescriptor, attention_fields, pack_attention
from hwgen.config import MachineConfig
from model.config import ConfigError
from sim.runner import Results, run_bench
from sim.tb.attention_dut import attention_verilog

ROOT = Path(__file__).resolve().parent.parent
BENCHES = ROOT / "rtl" / "build" / "benches" / "attention"
SHAPE = AttentionShape(side=8, window=4, shift=2, heads=2, head_size=16, planes=3)
MEMORIES = {"in_base": 0, "out_base": 1000, "score_threshold": 700, "rom_base": 0, "mask_ratio": 0}


def bench(name: str, simulator: str = "verilator", module: str = "tb_attention", **env: str) -> Results:
    folder = BENCHES / name
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "dut.v"
    text = attention_verilog(name)
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    return run_bench(name=env.get("MUTATE", "layers"), toplevel="dut", sources=[source], build_dir=folder,
                     test_module=f"sim.tb.{module}", simulator=simulator, env={"MACHINE": name, "MUTATE": "", **env})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["narrow", "binary", "quad"])
def test_layers_equal_golden_word_for_word_and_cycle_for_cycle(name: str) -> None:
    results = bench(name, CASES="16")
    assert (results.passed, results.failed) == (1, 0), results.summary()


@pytest.mark.slow
def test_simulators_agree(any_simulator: str) -> None:
    results = bench("binary", any_simulator, CASES="4", CASE_SEED="2", LARGEST="600")
    assert (results.passed, results.failed) == (1, 0), results.summary()


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["score_fire", "out_fire", "ratio"])
def test_bench_can_fail(mutation: str) -> None:
    results = bench("binary", CASES="16", MUTATE=mutation)
    assert (results.passed, results.failed) == (0, 1)
    assert "differs: got 0x" in results.tests[0].message


STEPWISE = {"steps": {"CASES": "6", "CASE_SEED": "11"}, "steps_quad": {"CASES": "4", "CASE_SEED": "19"}}
"""Layers of a stepwise machine: windows of 1 to 16 tokens, shifted and not, and masks of every ratio."""


@pytest.mark.slow
def test_time_steps_equal_golden_word_for_word_and_cycle_for_cycle() -> None:
    results = bench("steps", module="tb_attention_steps", **STEPWISE["steps"])
    assert (results.passed, results.failed) == (1, 0), results.summary()


@pytest.mark.slow
def test_time_steps_of_four_rows(any_icarus: str) -> None:
    """On Icarus only: its builds are quick."""
    results = bench("steps_quad", any_icarus, module="tb_attention_steps", **STEPWISE["steps_quad"])
    assert (results.passed, results.failed) == (1, 0), results.summary()


@pytest.mark.slow
@pytest.mark.parametrize("mutation", ["scores", "outputs", "redrawn", "greater"])
def test_bench_of_time_steps_can_fail(mutation: str) -> None:
    results = bench("steps", module="tb_attention_steps", **STEPWISE["steps"], MUTATE=mutation)
    assert (results.passed, results.failed) == (0, 1)
    assert "differs: got 0x" in results.tests[0].message


def test_cycles_of_the_default_machine() -> None:
    """4 windows x 2 heads; a job is 8 passes of 16 keys, loaded in 48 reads."""
    job, first, tail = 8 * 16, 48 + 2 + 3, 8 + 7 + 2 * 3 + 1 + 4
    assert attention_cycles(MachineConfig(), SHAPE) == 2 + first + 8 * job - 1 + tail


def test_descriptor_holds_the_products() -> None:
    fields = attention_fields(MachineConfig(), SHAPE, **{**MEMORIES, "in_base": 10})
    view = AttentionDescriptor.as_shape().from_bits(pack_attention(fields))
    # 64 lanes hold four slices of 16: 6 slots of q, k, v in 2 words, so v's first slot (4) begins the second
    assert (view.input.token, view.input.row, view.input.origin_y, view.v.word, view.k.lane) == (2, 16, 42, 1, 32)
    assert (view.rom_head, view.rom_start, view.rel_wrap) == (49 * 8, 24 * 8, 32)


@pytest.mark.parametrize(("change", "message"), [
    ({"head_size": 25}, "head_lanes of at least 25, not 24"),
    ({"planes": 4}, "planes of at least 4, not 3"),
    ({"side": 18, "window": 9}, "window_tokens of at least 81, not 64"),
])
def test_machine_too_small(change: dict[str, int], message: str) -> None:
    shape = AttentionShape(**{"side": 8, "window": 4, "shift": 0, "heads": 2, "head_size": 16, "planes": 3, **change})
    with pytest.raises(ConfigError, match=message):
        attention_fields(MachineConfig(), shape, **MEMORIES)
    with pytest.raises(ConfigError, match=message):
        attention_cycles(MachineConfig(), shape)


@pytest.mark.parametrize(("change", "message"), [
    ({"side": 9}, "window 4 does not divide a side of 9"),
    ({"side": 300}, "side must be 1 to 256 tokens, not 300"),
    ({"shift": 4}, r"shift must be below the window \(4\), not 4"),
    ({"heads": 0}, "heads must be 1 to 256, not 0"),
    ({"head_size": 0}, "head size must be at least 1, not 0"),
])
def test_shape_must_be_legal(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttentionShape(**{"side": 8, "window": 4, "shift": 0, "heads": 2, "head_size": 16, "planes": 3, **change})


@pytest.mark.parametrize(("change", "message"), [
    ({"score_threshold": 0}, "score_threshold must be at least 1, not 0"),
    ({"score_threshold": 1 << 20}, "score_threshold: 1048576 does not fit 20 bits"),
    ({"in_base": 1 << 20}, "input.base: 1048576 does not fit 20 bits"),
    ({"mask_ratio": 256}, "mask_ratio: 256 does not fit 8 bits"),
])
def test_fields_must_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        attention_fields(MachineConfig(), SHAPE, **{**MEMORIES, **change})
