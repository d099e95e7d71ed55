"""Direct training: surrogate-gradient fine-tuning of the `stepwise` network at few time steps, with or without spike masking.

The converted network is the start; back-propagation runs through the time steps (Neftci et al., IEEE Signal Processing Magazine
2019, surrogate gradients), BatchNorm keeps its statistics. `python -m model.direct --config C --steps 4`.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from model import checkpoint
from model import config as configuration
from model.command_line import command_line, output_file
from model.config import Config, MaskingConfig
from model.data import Augment, Images, digest, fit, load_for
from model.datasets import DATASETS
from model.factory import network
from model.neuron import LfsrMasks, StepwiseEngine
from model.qcfs import QCFS
from model.spiking import SpikingNetwork
from model.train import groups
from model.training_data import parts

STATE_FORMAT = "mst-direct-state"


class SurrogateSpike(torch.autograd.Function):
    """1 where u >= 1, else 0; its gradient is the triangle max(0, 1 - |u - 1|)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """u: potential over threshold, any shape, float; returns 0/1 of its shape and dtype."""
        ctx.save_for_backward(u)
        return (u >= 1).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Gradient of u."""
        (u,) = ctx.saved_tensors
        return grads[0] * torch.clamp(1 - (u - 1).abs(), min=0)


class SurrogateEngine(StepwiseEngine):
    """`stepwise` neurons with gradients: the spikes of `StepwiseEngine` up to rounding, potentials kept in thresholds."""

    def __init__(self) -> None:
        super().__init__()
        self.potentials: dict[str, Tensor] = {}

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire; the soft reset is taken without gradient."""
        up = act.threshold * act.levels
        u = x / up + self.potentials.get(act.name, torch.full((), 0.5, dtype=x.dtype))
        spike: Tensor = SurrogateSpike.apply(u)  # type: ignore[no-untyped-call]
        self.potentials[act.name] = u - spike.detach()
        return up * spike


def step_logits(model: SpikingNetwork, images: Tensor, steps: int, masking: MaskingConfig) -> Tensor:
    """Mean logits [B, classes] of `steps` time steps of normalised images, with gradient.

    Masks are those of images drawn at random by torch's generator, and redrawn at every step.
    """
    engine = SurrogateEngine()
    numbers = torch.randint(2**32, (len(images),)).to(images.device)
    logits = []
    for step in range(steps):
        engine.masks = LfsrMasks(masking, model.config, numbers, step) if masking.active else None
        logits.append(model.run(images, engine))
    return torch.stack(logits).sum(0) / steps


class FineTuner:
    """A resumable run in `folder`: `epochs` passes over `images` training images drawn anew for each."""

    def __init__(self, config: Config, model: SpikingNetwork, data: Images, folder: Path, *, steps: int, epochs: int, images: int,
                 batch: int, rate: float, seed: int = 1) -> None:
        """ValueError for numbers out of range. `data`: training images; the held-out ones are left out."""
        for name, value in (("steps", steps), ("epochs", epochs), ("images", images), ("batch", batch)):
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")
        if not 0 < rate < 1:
            raise ValueError(f"--rate must be between 0 and 1, not {rate}")
        train, _ = parts(config, data.labels)
        count = len(train)
        if not batch <= images <= count:
            raise ValueError(f"--images must be {batch} (a batch) to {count} (the training images), not {images}")
        self.config, self.model, self.folder = config, model, folder
        self.steps, self.epochs, self.images, self.batch, self.rate, self.seed = steps, epochs, images, batch, rate, seed
        pixels = fit(data.images[train], config.model.in_channels, config.model.image_size)
        mirrors = DATASETS[config.train.dataset].mirrors
        self.augment, self.labels = Augment(pixels, config.train.crop_pad, mirrors), data.labels[train]
        self.data_digest = digest(data)
        self.optimiser = torch.optim.AdamW(groups(model, 0.0), lr=rate)
        self.epoch = 0
        self.log: list[dict[str, float]] = []
        self.identity = json.dumps([checkpoint.describe(model), steps, epochs, images, batch, rate, seed], sort_keys=True)
        if self.state_path.exists():
            self.restore()

    @property
    def state_path(self) -> Path:
        """File of the resumable state."""
        return self.folder / "direct.safetensors"

    def restore(self) -> None:
        """Go on from the saved state; CheckpointError where it belongs to other settings."""
        tensors, info = checkpoint.read(self.state_path, STATE_FORMAT)
        if info["identity"] != self.identity:
            raise checkpoint.CheckpointError(f"{self.state_path}: belongs to other settings: remove it, or give another --runs")
        if info.get("data", self.data_digest) != self.data_digest:
            raise checkpoint.CheckpointError(f"{self.state_path}: its training images were others: give it the same (--data), "
                                             "or another --runs")
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        checkpoint.restore_optimiser(self.optimiser, tensors)
        self.epoch, self.log = info["epoch"], info["log"]

    def save(self) -> None:
        """Write the resumable state."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()} | checkpoint.optimiser_tensors(self.optimiser)
        checkpoint.write(self.state_path, tensors, STATE_FORMAT,
                         {"identity": self.identity, "epoch": self.epoch, "log": self.log, "data": self.data_digest})

    def run_epoch(self) -> None:
        """One pass; BatchNorm in evaluation mode, cosine over the whole run."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        torch.manual_seed(self.seed * 1_000_003 + self.epoch)  # spike masks
        order = torch.randperm(len(self.labels), generator=random)[:self.images]
        count = self.images // self.batch
        self.model.eval()
        total = right = 0.0
        bar = tqdm(range(count), desc=f"epoch {self.epoch + 1}/{self.epochs}", mininterval=10)
        for index in bar:
            done = (self.epoch * count + index) / (self.epochs * count)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate * 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))
            chosen = order[index * self.batch:(index + 1) * self.batch]
            pixels = self.model.normalise(self.augment(chosen, random))
            logits = step_logits(self.model, pixels, self.steps, self.model.masking)
            loss = functional.cross_entropy(logits, self.labels[chosen], label_smoothing=self.config.train.label_smoothing)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip)
            self.optimiser.step()
            total += float(loss.detach())
            right += int((logits.argmax(1) == self.labels[chosen]).sum())
            bar.set_postfix(loss=f"{total / (index + 1):.3f}", refresh=False)
        self.epoch += 1
        self.log.append({"epoch": self.epoch, "loss": total / count, "training_accuracy": right / (count * self.batch)})

    def run(self) -> None:
        """Train to the end, saving after each epoch."""
        while self.epoch < self.epochs:
            self.run_epoch()
            self.save()
            tqdm.write(" ".join(f"{key} {value:.4g}" for key, value in self.log[-1].items()))


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m model.direct", description=__doc__)
    top.add_argument("--config", required=True, type=Path, help="configuration of the converted network")
    top.add_argument("--checkpoint", type=Path, help="converted network (default: beside the configuration)")
    top.add_argument("--output", required=True, type=Path, help="checkpoint to write")
    top.add_argument("--steps", type=int, default=4, help="time steps to train for (default: 4)")
    top.add_argument("--epochs", type=int, default=4, help="passes (default: 4)")
    top.add_argument("--images", type=int, default=5000, help="training images of a pass (default: 5000)")
    top.add_argument("--batch", type=int, default=50, help="images of a step (default: 50)")
    top.add_argument("--rate", type=float, default=3e-4, help="learning rate of AdamW (default: 3e-4)")
    top.add_argument("--mask", type=float, default=0.0, help="spike mask ratio at the configuration's sites (default: 0)")
    top.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    top.add_argument("--data", help="folder of the data sets (default: MST_DATA, else data)")
    top.add_argument("--runs", type=Path, default=Path("runs"), help="folder of training states (default: runs)")
    return top


@command_line()
def main(argv: list[str] | None = None) -> int:
    """Fine-tune; errors are one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.threads < 1:
        raise ValueError(f"--threads must be at least 1, not {args.threads}")
    torch.set_num_threads(args.threads)
    config = configuration.load(args.config)
    output_file(args.output)
    path = args.checkpoint or checkpoint.of(config)
    given, info = checkpoint.load(path)
    checkpoint.expect(path, given, config.model)
    model = network(config.model, config.masking.at(args.mask))
    model.load_state_dict(given.state_dict())
    tuner = FineTuner(config, model, load_for(config, True, args.data), args.runs / args.output.stem,
                      steps=args.steps, epochs=args.epochs, images=args.images, batch=args.batch, rate=args.rate)
    tuner.run()
    checkpoint.save(args.output, model, {"dataset": config.train.dataset, "epoch": info.get("epoch"), "steps": args.steps,
                                         "direct": tuner.log, "command": f"python -m model.direct {' '.join(argv)}"})
    print(f"{args.output}: {tuner.epoch} passes at {args.steps} time steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
