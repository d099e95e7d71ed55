"""How fast the golden is: against the float QCFS forward in torch, and against SpikingJelly step by step. Needs both.

All three run the same network and images on the same CPU with the same number of threads, in one process, in turn; the
ratios are medians over the turns. SpikingJelly: Fang et al., Science Advances 9 (2023), eadi1480.
"""
import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.command_line import command_line

STEPS = 16
"""Time steps of the step-by-step simulation."""
STEPPED_IMAGES = 64
"""Images of a turn of it, which is some twenty times slower."""
BATCHES = (16, 32, 64, 128, 256)
STEPPED_BATCHES = (4, 16, 64)
START = 0.5
"""Initial potential, of a threshold of 1."""
TOLERANCE = 1e-3
"""Largest difference of a logit between SpikingJelly and our own stepwise mode, both in float64."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class BenchError(RuntimeError):
    """What keeps the benchmark from running, in one line with the remedy."""


def golden_ratios(config: Path, images: NDArray[np.uint8], repeats: int, threads: int = 1) -> dict[str, Any]:
    """Times of the trained network beside `config` on images uint8 [N, H, W, C], in a process with `threads` threads.

    Keys: golden_vs_torch (time of the golden over time of torch), golden_vs_spikingjelly (how many times faster the golden is),
    both medians over `repeats` turns; threads, repeats, steps; and for golden, torch and spikingjelly a dict of images, batch,
    seconds_per_image (median), for spikingjelly also its mode. BenchError when a package is missing or a result is wrong.
    """
    for name in ("torch", "spikingjelly"):
        if importlib.util.find_spec(name) is None:
            raise BenchError(f"{name} is not installed: see `make help` for torch; pip install --no-deps spikingjelly==2.0.0")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, images=images)
        # BLAS libraries read their number of threads once, before numpy is imported.
        done = subprocess.run(
            [sys.executable, "-m", "sim.bench_golden", str(config), str(file), str(repeats), str(threads)],
            env=os.environ | dict.fromkeys(THREADS, str(threads)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchError(f"python -m sim.bench_golden ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure(config: Path, images: NDArray[np.uint8], repeats: int, threads: int) -> dict[str, Any]:
    import torch

    from model import checkpoint
    from model import config as configuration
    from quantize import network as network_file
    from sim.golden.network import images_at_once, run

    torch.set_num_threads(threads)
    described = configuration.load(config)
    network = network_file.load(described.network)
    model, _ = checkpoint.load(checkpoint.of(described))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    few = min(len(images), STEPPED_IMAGES)
    _verify(model, pixels[:2])

    def golden() -> None:
        run(network, images, keep=False)

    def qcfs(batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                model.logits(model.normalise(pixels[start:start + batch]))

    def stepped(mode: str, batch: int) -> None:
        with torch.inference_mode():
            for start in range(0, few, batch):
                _spikingjelly(model, model.normalise(pixels[start:min(few, start + batch)]), mode)

    golden()
    batch = _best({size: _call(qcfs, size) for size in BATCHES})
    mode, step_batch = _best({(mode, size): _call(stepped, mode, size) for mode in "sm" for size in STEPPED_BATCHES})
    turns = []
    for _ in tqdm(range(repeats), desc="golden, torch, SpikingJelly", mininterval=1):
        turns.append((_seconds(golden) / len(images), _seconds(_call(qcfs, batch)) / len(images),
                      _seconds(_call(stepped, mode, step_batch)) / few))
    per_image = [statistics.median(turn[index] for turn in turns) for index in range(3)]
    return {
        "golden_vs_torch": round(statistics.median(g / t for g, t, _ in turns), 3),
        "golden_vs_spikingjelly": round(statistics.median(s / g for g, _, s in turns), 2),
        "threads": threads, "repeats": repeats, "steps": STEPS,
        "golden": {"images": len(images), "batch": images_at_once(network), "seconds_per_image": per_image[0]},
        "torch": {"images": len(images), "batch": batch, "seconds_per_image": per_image[1]},
        "spikingjelly": {"images": few, "batch": step_batch, "mode": mode, "seconds_per_image": per_image[2]},
    }


def _call(what: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: what(*arguments)


def _seconds(what: Callable[[], None]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def _best(ways: dict[Any, Callable[[], None]]) -> Any:
    """The key of the fastest of `ways`, each once to warm up and twice for its time."""
    times = {}
    for key, what in ways.items():
        what()
        times[key] = min(_seconds(what), _seconds(what))
    return min(times, key=lambda key: times[key])


def _spikingjelly(model: Any, pixels: Any, mode: str) -> Any:
    """Sum [B, classes] of the logits of STEPS time steps, every activation of `model` being a SpikingJelly IFNode.

    Soft reset, initial potential 1/2 of the threshold 1; charges are scaled to it. `mode`: SpikingJelly's step mode, "s" (the
    whole network step by step) or "m" (layer by layer, all steps at once).
    """
    from model.neuron import Engine

    neuron = importlib.import_module("spikingjelly.activation_based.neuron")  # has no types

    nodes: dict[str, Any] = {}

    class Spiking(Engine):
        """Fires through `nodes`."""

        def fire(self, act: Any, x: Any) -> Any:
            up = act.threshold.detach() * act.levels
            if act.name not in nodes:
                nodes[act.name] = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=mode).eval()
                nodes[act.name].v = START
            charge = x / up
            if mode == "m":
                return up * nodes[act.name](charge.unflatten(0, (STEPS, -1))).flatten(0, 1)
            return up * nodes[act.name](charge)

    engine = Spiking()
    if mode == "m":
        return model.run(pixels.repeat(STEPS, 1, 1, 1), engine).unflatten(0, (STEPS, -1)).sum(0)
    return sum(model.run(pixels, engine) for _ in range(STEPS))


def _verify(model: Any, pixels: Any) -> None:
    """BenchError unless SpikingJelly's network gives the logits of our stepwise mode."""
    import torch

    from model.mst import MST

    precise = MST(model.config, model.masking).double().eval()
    precise.load_state_dict(model.state_dict())
    inputs = precise.normalise(pixels)
    wanted = precise.logits(inputs, "stepwise", STEPS)[-1]
    for mode in "sm":
        with torch.inference_mode():
            apart = float((_spikingjelly(precise, inputs, mode) - wanted).abs().max())
        if not apart <= TOLERANCE:
            raise BenchError(f"SpikingJelly in mode {mode!r} differs from the stepwise mode by {apart} in a logit: "
                             "it does not run the same network")


@command_line(BenchError)
def main(argv: list[str] | None = None) -> int:
    """`python -m sim.bench_golden CONFIG IMAGES.npz REPEATS THREADS`: prints the ratios as one line of JSON."""
    top = argparse.ArgumentParser(prog="python -m sim.bench_golden", description=__doc__)
    top.add_argument("config", type=Path)
    top.add_argument("images", type=Path, help=".npz with images uint8 [N, H, W, C]")
    top.add_argument("repeats", type=int)
    top.add_argument("threads", type=int, help="for torch; for BLAS set " + ", ".join(THREADS))
    args = top.parse_args(argv)
    with np.load(args.images, allow_pickle=False) as found:
        print(json.dumps(_measure(args.config, found["images"], args.repeats, args.threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
