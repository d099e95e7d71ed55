"""Random machines, on each several random networks: bit-exact at every layer boundary, in the predicted cycles.

A failure names its seed; with MST_RANDOM_SEED=3 (4, ...) others are drawn.
"""
import contextlib
import os
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import sim.fast.harness as harness
from hwgen.config import MachineConfig, fitted, machine_config
from hwgen.emit import Build, emit
from hwgen.limits import needs
from hwgen.program import compile_network, demands, with_depths
from hwgen.timeline import MemoryTiming
from model.config import SITES, AnyModel, ConfigError, MaskingConfig, ModelConfig, QuantizeConfig, read_model
from model.masking import SpikeMask
from quantize.layers import Attention, Gemm, Network
from quantize.random_network import random_images, random_network
from sim.fast.single import external_memory
from sim.job import Answer
from sim.trace_file import TRACE_SUFFIX
from sim.verify import golden_trace, time_steps, verify

pytestmark = pytest.mark.slow

SEEDS = {"chip": 1, "stepwise": 4, "external": 2}
"""They draw heads that leave lanes unused, networks of all kinds, and tensors that go through external memory."""
NETWORKS = 6
LARGEST_WORK, LARGEST_HEAD = 200_000, 12
"""Of a network: weights by tokens; channels of a head."""


def model_of(r: random.Random, kind: str, level: int) -> AnyModel:
    """A small model of `kind` that the configuration takes."""
    while True:
        stages = r.choice([1, 1, 2, 3])
        table: dict[str, object] = {"in_channels": r.randint(1, 5), "classes": r.choice([2, 5, 11, 19]), "levels": level,
                                    "depths": [r.randint(1, 2) for _ in range(stages)]}
        if kind == "mst":
            patch = r.randint(1, 4)
            table |= {"image_size": r.randint(1, 12) * patch, "patch": patch, "embedding": r.randint(1, 24),
                      "heads": [r.randint(1, 6) for _ in range(stages)], "window": r.randint(2, 6),
                      "mlp_ratio": r.choice([0.5, 1.0, 1.5, 3.0]), "in_bits": r.choice([1, 4, 7, 8, 8])}
        else:
            table |= {"kind": kind, "image_size": r.randint(1, 10), "widths": [r.randint(1, 20) for _ in range(stages)]}
            table |= {"pooling": r.choice(["stride", "average"]), "dense": r.choice([[], [7], [9, 17]])} if kind == "vgg" else \
                {"shortcut": r.choice(["none", "projection"])}
        with contextlib.suppress(ConfigError):
            return read_model(table)


def network_of(r: random.Random, kinds: list[str], levels: list[int]) -> tuple[Network, MaskingConfig]:
    """A small network, and a mask for it."""
    while True:
        model = model_of(r, r.choice(kinds), r.choice(levels))
        quantize = QuantizeConfig(weight_bits=r.choice([4, 8]), rom_bits=r.randint(6, 16), stream_bits=r.randint(4, 12))
        network = random_network(model, r.randrange(1 << 20), quantize)
        work = sum(layer.tokens * layer.weight.size for layer in network.layers if isinstance(layer, Gemm))
        head = max((layer.head_size for layer in network.layers if isinstance(layer, Attention)), default=1)
        if work <= LARGEST_WORK and head <= LARGEST_HEAD:
            sites = tuple(site for site in SITES if r.random() < 0.6) if isinstance(model, ModelConfig) else ("conv",)
            return network, MaskingConfig(sites, r.randrange(256) / 256, r.getrandbits(32))


def knobs(r: random.Random, kind: str) -> MachineConfig:
    """A small machine; what depends on the network is 0."""
    table = {"lanes": r.choice([8, 8, 16]), "fire_lanes": r.choice([1, 2, 4, 8]), "attention_rows": r.choice([1, 2, 4]),
             "rows_per_cycle": r.choice([1, 2]), "queue_depth": r.randint(2, 9), "bus_bytes": r.choice([4, 8])}
    more = {"chip": {}, "stepwise": {"firing": "stepwise", "steps": r.randint(1, 5)},
            "external": {"memory_bits": r.choice([64, 128, 512]), "memory_burst": r.choice([1, 4, 16])}}[kind]
    return machine_config(table | more)


def drawn(r: random.Random, kind: str) -> tuple[MachineConfig, list[tuple[Network, MaskingConfig]]]:
    """A machine and networks that fit it: as small as they allow, so that external memory is needed where there is any."""
    machine, levels = knobs(r, kind), [1, 3, 7, 15]
    kinds = ["mst"] if machine.memory_bits else ["mst", "mst", "vgg", "resnet"]
    levels = [r.choice(levels)] if machine.stepwise else levels
    cases = [network_of(r, kinds, levels) for _ in range(NETWORKS)]
    wants = [needs(network, machine) for network, _ in cases]
    machine = fitted(machine, **{name: max(want[name] for want in wants) for name in wants[0]})
    for programs in (False, True):  # with other memories, programs for external memory are longer or shorter
        found = [demands(compile_network(network, machine, masking)) for network, masking in cases]
        machine = with_depths(machine, {name: max(need[name] for need in found) for name in found[0]
                                        if programs or name not in ("descriptors", "transfers")})
    return machine, cases


def failures(build: Build, program: Path, masking: MaskingConfig, r: random.Random) -> list[str]:
    """What one or two images of the compiled path have otherwise than the golden model and the prediction."""
    network, machine, folder = build.program.network, build.machine, build.folder / "random"
    images = random_images(network.model, r.randrange(1 << 20), r.randint(1, 2))
    first, steps = r.choice([0, 41, (1 << 32) - 2]), time_steps(machine, None)
    timing = MemoryTiming(r.choice([1, 30]), Fraction(1, r.randint(1, 4)))
    answers = harness.run(build, images, program=program, folder=folder, seed=masking.seed, first_image=first,
                          traced=range(first, first + len(images)), memory=external_memory(build, timing))
    found: list[str] = []
    for image, answer in zip(np.split(images, len(images)), answers, strict=True):
        trace = golden_trace(network, machine, image, mask=SpikeMask.of(masking), first_image=answer.image, steps=steps)
        seen = Answer([answer.logits.tolist()], answer.cycles, answer.events, answer.stalls, answer.image + 1)
        found += verify(build.program, trace, image, seen, folder / f"{answer.image}{TRACE_SUFFIX}", timing, steps=steps).failures
    return found


@pytest.mark.parametrize("kind", SEEDS)
def test_a_random_machine_runs_random_networks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "OPTIMISE", "-O0")  # the build is most of the test
    seed = int(os.environ.get("MST_RANDOM_SEED", SEEDS[kind]))
    r = random.Random(f"{kind} {seed}")
    machine, cases = drawn(r, kind)
    for network, masking in cases:
        build = emit(network, machine, masking, Path("rtl/build/benches/test_random_machines").resolve() / kind)
        found = failures(build, harness.build(build), masking, r)
        assert not found, f"MST_RANDOM_SEED={seed}: {found[0]} ({len(found)} failures): {machine}, {network.model}, {masking}"
