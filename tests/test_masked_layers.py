"""sim/rivals.py: cycles of masked layers against their events; hwgen/gemm_cycles.py: which planes go together."""
import dataclasses

import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.gemm_cycles import by_pass, input_planes
from hwgen.program import Program, compile_network, sized
from hwgen.schedule import predict
from hwgen.timeline import MemoryTiming
from model.config import SITES, MaskingConfig, ModelConfig
from quantize.random_network import random_images, random_network
from sim.golden.network import run as run_golden
from sim.rivals import Masked, masked_layers, proportion
from sim.verify import stored

MODEL = ModelConfig(image_size=16, in_channels=1, classes=3, patch=2, embedding=16, depths=(1, 1), heads=(2, 4), window=4,
                    mlp_ratio=2.0, levels=7)
MASKING = MaskingConfig(sites=SITES)
NETWORK = random_network(MODEL, 4)
IMAGE = random_images(MODEL, 9, 1)[0]


def compiled(**knobs: object) -> Program:
    machine = MachineConfig(**{"lanes": 16, "fire_lanes": 16, "head_lanes": 8, "window_tokens": 16} | knobs)  # type: ignore[arg-type]
    program = compile_network(NETWORK, machine, MASKING)
    program.machine = sized(program.machine, program)
    return program


@pytest.mark.parametrize(("bits", "signed", "passes"), [
    (3, False, [[0, 1, 2]]), (8, False, [[0, 1], [2, 3, 4], [5, 6, 7]]), (5, True, [[0], [1], [2, 3, 4]]),
    (4, True, [[0], [1, 2, 3]]), (6, True, [[0], [1, 2], [3, 4, 5]]), (1, False, [[0]]),
])
def test_planes_of_a_pass(bits: int, signed: bool, passes: list[list[int]]) -> None:
    """Heaviest first, groups of three from the lightest on; the sign plane alone."""
    machine = MachineConfig(planes=3)
    fields = {"first_bit": (bits - 1) % 3, "first_group": (bits - 1) // 3 * 2, "group_step": 2, "signed": int(signed)}
    events = np.arange(2 * bits * 3).reshape(2, bits, 3)
    assert input_planes(fields, machine) == bits
    assert by_pass(fields, machine, events).tolist() == np.stack([events[:, planes].sum(axis=1) for planes in passes], 1).tolist()


def test_without_a_mask_no_layer_is_masked() -> None:
    assert masked_layers(compiled(), IMAGE, MASKING, 0.0) == []


def test_what_paces_a_layer() -> None:
    """One fire lane holds every masked layer up; with as many as lanes, events do."""
    slow = masked_layers(compiled(fire_lanes=1), IMAGE, MASKING, 0.75)
    fast = masked_layers(compiled(), IMAGE, MASKING, 0.75)
    assert [layer.layer for layer in slow] == [f"s{stage}.b0.{name}" for stage in range(2) for name in ("fc1", "fc2")]
    assert {layer.paced_by for layer in slow} == {"fire unit"}
    assert all(a.excess > b.excess and a.events_kept == b.events_kept < 0.5 for a, b in zip(slow, fast, strict=True))
    assert proportion(slow) > proportion(fast) > 1


def test_proportion_weighs_layers_by_their_unmasked_cycles() -> None:
    one, other = (Masked("x", kept, cycles / before, cycles, 1.0, "events") for kept, cycles, before in
                  ((0.25, 300, 1000), (0.5, 50, 100)))
    assert proportion([one, other]) == 350 / (0.25 * 1000 + 0.5 * 100)
    assert proportion([one]) == pytest.approx(one.excess)


def test_stalls_belong_to_the_layer_whose_cycles_hold_them() -> None:
    """With a memory far too slow no layer stalls for more cycles than it has, and the rest is what it takes on chip."""
    program = compiled(memory_bits=64, weight_rows=128, spike_words=256, stream_words=128)
    trace = run_golden(NETWORK, IMAGE[None])
    values = {name: found[0] for name, found in stored(trace, program, IMAGE[None]).items()}
    slow = predict(program, values, MemoryTiming(200))
    fast = predict(program, values, MemoryTiming(1))
    assert sum(layer.stalls for layer in slow) > sum(layer.stalls for layer in fast)
    busy = [[layer.cycles - layer.stalls for layer in found] for found in (slow, fast)]
    assert busy[0][1:] == busy[1][1:] and min(busy[0]) > 0, "all but the image, which comes first, cost the same"
    assert dataclasses.replace(slow[1], cycles=0, stalls=0) == dataclasses.replace(fast[1], cycles=0, stalls=0)
