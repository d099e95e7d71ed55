"""Training of the float QCFS network: AdamW, warm-up and cosine, averaged weights, exactly resumable.

Everything random in epoch e comes from a generator seeded with (seed, e), and the state is saved after each epoch,
so a resumed run repeats the uninterrupted one. Started by torchrun, each process takes its share of every batch
(BatchNorm then sees that share): one thread each is much faster than two threads on cores that others use too.
"""
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional
from tqdm import tqdm

from model import checkpoint
from model.config import Config, TrainConfig
from model.data import NORMALISATION, Augment, Images, fit
from model.factory import build
from model.mst import MST
from model.neuron import Engine
from model.qcfs import QCFS


class CalibrateEngine(Engine):
    """Sets each threshold from the first batch: up = the 99th percentile of the positive inputs."""

    def fire(self, act: QCFS, x: Tensor) -> Tensor:
        """See Engine.fire."""
        positive = x.detach().flatten()[:: max(1, x.numel() // 100_000)].clamp(min=0)
        positive = positive[positive > 0]
        up = float(torch.quantile(positive, 0.99)) if len(positive) else 1.0
        act.set_threshold(max(up, 1e-3) / act.levels)
        return act(x)  # type: ignore[no-any-return]


def rate_at(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of `step`: linear warm-up, then a cosine to 1 % of the peak."""
    warm, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warm:
        return config.rate * (step + 1) / warm
    return config.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


def average(mean: MST, model: MST, decay: float) -> None:
    """mean = decay * mean + (1 - decay) * model, parameters and BatchNorm statistics alike."""
    with torch.no_grad():
        pairs = [(a, b) for a, b in zip(mean.state_dict().values(), model.state_dict().values(), strict=True)]
        torch._foreach_lerp_([a for a, _ in pairs if a.is_floating_point()],
                             [b for a, b in pairs if a.is_floating_point()], 1 - decay)


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Optimiser groups: weight decay on matrices only, not on biases, norms, thresholds and bias tables."""
    matrices = [p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def accuracy(model: MST, data: Images, batch: int = 500) -> float:
    """Share of `data` that the QCFS network classifies correctly (evaluation statistics)."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data.labels), batch):
            logits = model(model.normalise(data.images[start:start + batch]))
            right += int((logits.argmax(1) == data.labels[start:start + batch]).sum())
    return right / len(data.labels)


def mean_over_processes(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over all processes, in place; one exchange."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))


class Trainer:
    """A training run in the folder `folder`; resumes from its `state.safetensors` where there is one."""

    def __init__(self, config: Config, data: Images, folder: Path, compiled: bool = True, bfloat16: bool = True,
                 resume: bool = True) -> None:
        """data: training images (uint8 [N, C, H, W]); the last `holdout` of them only measure accuracy."""
        self.config, self.folder = config, folder
        self.rank, self.share = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.settings = config.train
        self.bfloat16 = bfloat16
        torch.manual_seed(self.settings.seed)
        pixels = fit(data.images, config.model.in_channels, config.model.image_size)
        train = len(pixels) - self.settings.holdout
        self.held = Images(pixels[train:], data.labels[train:])
        self.augment, self.labels = Augment(pixels[:train]), data.labels[:train]
        self.model = build(config.model, config.masking)
        mean, std = NORMALISATION[self.settings.dataset]
        self.model.mean.copy_(torch.tensor(mean))
        self.model.std.copy_(torch.tensor(std))
        self.mean = build(config.model, config.masking).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(groups(self.model, self.settings.weight_decay), lr=0.0, fused=True)
        self.epoch = 0
        self.log: list[dict[str, float]] = []
        if resume and self.state_path.exists():
            self.restore()
        else:
            self.model.train()
            with torch.no_grad():
                self.model.run(self.model.normalise(pixels[:self.settings.batch]), CalibrateEngine())
            self.mean.load_state_dict(self.model.state_dict())
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if compiled else self.model

    @property
    def state_path(self) -> Path:
        """File of the resumable state."""
        return self.folder / "state.safetensors"

    def restore(self) -> None:
        """Continue from the saved state; CheckpointError where it belongs to another configuration."""
        tensors, info = checkpoint.read(self.state_path, checkpoint.STATE_FORMAT)
        if info["config"] != self.identity():
            raise checkpoint.CheckpointError(f"{self.state_path}: belongs to another configuration: "
                                             "remove it, or train with --restart")
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.mean.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("mean.")})
        state = self.optimiser.state_dict()
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                state["state"].setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(state)
        self.epoch, self.log = info["epoch"], info["log"]

    def save(self) -> None:
        """Write the resumable state and the averaged network (`last.safetensors`) of this epoch."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.state_dict().items()}
        for index, entry in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in entry.items()}
        info = {"config": self.identity(), "epoch": self.epoch, "log": self.log}
        checkpoint.save(self.folder / "last.safetensors", self.mean, self.info())
        checkpoint.write(self.state_path, tensors, checkpoint.STATE_FORMAT, info)

    def identity(self) -> str:
        """What a state must share with the configuration to be resumed."""
        return json.dumps([checkpoint.describe(self.model), {k: getattr(self.settings, k) for k in
                          TrainConfig.__dataclass_fields__}], sort_keys=True)

    def info(self) -> dict[str, object]:
        """Metadata of a network saved now."""
        start = "python" if self.share == 1 else f"torchrun --nproc-per-node={self.share}"
        return {"dataset": self.settings.dataset, "epoch": self.epoch, "epochs": self.settings.epochs,
                "held_out_accuracy": self.log[-1]["held_out"] if self.log else None,
                "command": f"{start} -m model train --config configs/{self.config.name}.toml"}

    def run_epoch(self) -> dict[str, float]:
        """One pass over the training images; returns the entry added to the log."""
        settings = self.settings
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.epoch)
        torch.manual_seed((settings.seed * 1_000_003 + self.epoch) * self.share + self.rank)  # spike masks
        order = torch.randperm(len(self.labels), generator=random)
        steps = len(order) // settings.batch
        if not steps:
            raise ValueError(f"[train] batch {settings.batch} exceeds the {len(order)} training images: lower it")
        self.model.train()
        started, total = time.time(), 0.0
        bar = tqdm(range(steps), desc=f"epoch {self.epoch + 1}/{settings.epochs}", mininterval=10,
                   disable=self.rank > 0)
        for index in bar:
            step = self.epoch * steps + index
            chosen = order[index * settings.batch:(index + 1) * settings.batch]
            rate = rate_at(settings, step, steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                images = self.augment(chosen, random)[self.rank::self.share]
                logits = self.forward(self.model.normalise(images))
            labels = self.labels[chosen][self.rank::self.share]
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.share > 1:
                mean_over_processes([p.grad for p in self.model.parameters() if p.grad is not None])
            nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            average(self.mean, self.model, min(settings.average, (step + 1) / (step + 10)))
            total += float(loss.detach())
            bar.set_postfix(loss=f"{total / (index + 1):.3f}", refresh=False)
        if self.share > 1:
            mean_over_processes([buffer for network in (self.model, self.mean) for buffer in network.buffers()
                                 if buffer.is_floating_point()])
        self.epoch += 1
        entry = {"epoch": self.epoch, "loss": total / steps, "seconds": time.time() - started}
        entry["held_out"] = accuracy(self.mean, self.held) if len(self.held.labels) else float("nan")
        self.log.append(entry)
        return entry

    def run(self) -> None:
        """Train up to the configured epoch, saving after each."""
        while self.epoch < self.settings.epochs:
            entry = self.run_epoch()
            if self.rank:
                continue
            self.save()
            tqdm.write(" ".join(f"{key} {value:.4g}" for key, value in entry.items()))
