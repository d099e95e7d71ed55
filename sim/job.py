"""What a simulation is asked to do, and what it answered: plain files between `sim run` and the bench inside the simulator."""
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Job:
    """One run of the top bench. `images_file`: .npy uint8 [B, H, W, C]; `memories`: [target, bits, hex file].

    `external_file`: what lies in external memory ("": there is none), of `external_bytes` bytes from `external_base` on, on a
    bus of `external_bits`; `latency`, `bandwidth` (numerator, denominator) and `memory_stall` as `sim.axi_memory.Timing`.
    `steps`: time steps of an image, written to STEPS (0: left as it is).
    """

    images_file: str
    patch: int
    seed: int
    mask_enable: bool
    mask_ratio: int | None
    first_image: int
    build_id: int
    memories: list[tuple[int, int, str]]
    answer_file: str
    idle: int = 0
    stall: int = 0
    external_file: str = ""
    external_bytes: int = 0
    external_base: int = 0
    external_bits: int = 0
    latency: int = 30
    bandwidth: tuple[int, int] = (1, 1)
    memory_stall: int = 0
    steps: int = 0

    def save(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Read what `save` wrote."""
        raw = json.loads(path.read_text())
        raw["memories"] = [tuple(entry) for entry in raw["memories"]]
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the host driver saw over AXI: logits [B, classes], and the counters after the run."""

    logits: list[list[int]]
    cycles: int
    events: int
    stalls: int
    image_index: int

    def save(self, path: Path) -> None:
        """Write the answer as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Answer":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def array(self) -> NDArray[np.int64]:
        """Logits int64 [B, classes]."""
        return np.array(self.logits, np.int64)
