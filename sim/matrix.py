"""One machine, many untrained networks: every shape on the same RTL, only program and images change."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwgen.config import MachineConfig
from hwgen.program import compile_network, demands, with_depths
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from quantize.random_network import random_images, random_network
from sim.run import Outcome, simulate

HEAD_LANES, WINDOW_TOKENS = 24, 49


@dataclass(frozen=True, slots=True)
class Case:
    """One network of the matrix, with the mask ratio it runs at."""

    name: str
    model: ModelConfig
    ratio: float
    sites: tuple[str, ...] = ("q", "k", "scores", "fc1", "fc2")


def _case(
    name: str,
    ratio: float,
    *,
    image: int,
    channels: int,
    patch: int,
    embedding: int,
    depths: Sequence[int],
    heads: Sequence[int],
    window: int,
    levels: int,
    mlp: float = 2.0,
    classes: int = 10,
) -> Case:
    return Case(
        name,
        ModelConfig(
            image_size=image,
            in_channels=channels,
            classes=classes,
            patch=patch,
            embedding=embedding,
            depths=tuple(depths),
            heads=tuple(heads),
            window=window,
            mlp_ratio=mlp,
            levels=levels,
        ),
        ratio,
    )


CASES = (
    _case("w2-L7", 0.0, image=16, channels=3, patch=4, embedding=16, depths=(2, 1), heads=(1, 2), window=2, levels=7),
    _case("w2-L1", 0.75, image=8, channels=1, patch=2, embedding=24, depths=(2,), heads=(3,), window=2, levels=1),
    _case("w4-L3", 0.25, image=32, channels=3, patch=4, embedding=24, depths=(2, 1), heads=(1, 3), window=4, levels=3),
    _case("w4-L15", 0.75, image=16, channels=1, patch=2, embedding=40, depths=(2,), heads=(5,), window=4, levels=15),
    _case(
        "w4-3stages", 0.9375, image=32, channels=3, patch=2, embedding=16, depths=(2, 2, 1), heads=(1, 2, 4), window=4, levels=7
    ),
    _case("w7-L7", 0.0, image=28, channels=1, patch=2, embedding=24, depths=(2, 1), heads=(3, 3), window=7, levels=7),
    _case("w7-h24", 0.25, image=28, channels=3, patch=2, embedding=24, depths=(2,), heads=(1,), window=7, levels=3),
    _case("w7-L15", 0.9375, image=28, channels=1, patch=4, embedding=48, depths=(2,), heads=(3,), window=7, levels=15),
    _case("w2-h5", 0.25, image=8, channels=3, patch=1, embedding=40, depths=(1, 2), heads=(5, 5), window=2, levels=7, mlp=1.5),
    _case("w4-h24x5", 0.75, image=16, channels=3, patch=4, embedding=120, depths=(2,), heads=(5,), window=4, levels=7, mlp=1.0),
    _case(
        "w4-L1-3stages", 0.0, image=32, channels=1, patch=4, embedding=16, depths=(1, 1, 1), heads=(1, 2, 4), window=2, levels=1
    ),
    _case("w7-L1", 0.75, image=14, channels=3, patch=1, embedding=16, depths=(2,), heads=(2,), window=7, levels=1, classes=3),
)
"""Windows 2, 4, 7 with and without shift; 1, 3, 5 heads of 8, 16, 24; L 1, 3, 7, 15; 1 and 3 channels; 1 to 3 stages; 4
ratios."""


def machine_for(cases: Sequence[Case], base: MachineConfig) -> MachineConfig:
    """`base` with room for every network of `cases`."""
    base = dataclasses.replace(
        base, planes=max(case.model.planes for case in cases), head_lanes=HEAD_LANES, window_tokens=WINDOW_TOKENS, acc_bits=32
    )
    need: dict[str, int] = {}
    for index, case in enumerate(cases):
        program = compile_network(random_network(case.model, index), base, MaskingConfig(sites=case.sites))
        for name, amount in demands(program).items():
            need[name] = max(need.get(name, 0), amount)
    return with_depths(base, need)


def run_matrix(
    cases: Sequence[Case], base: MachineConfig, folder: Path, images: int = 1, simulator: str = "verilator"
) -> Iterator[tuple[Case, Outcome]]:
    """Simulate every case on one machine in `folder`; the Verilog is written and built once."""
    machine = machine_for(cases, base)
    for index, case in enumerate(cases):
        config = Config(
            case.name, case.model, MaskingConfig(sites=case.sites, ratio=case.ratio), TrainConfig(), QuantizeConfig(), {}
        )
        outcome = simulate(
            config,
            random_network(case.model, index),
            random_images(case.model, index, images),
            simulator=simulator,
            folder=folder,
            machine=machine,
        )
        yield case, outcome
