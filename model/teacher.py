"""A convolutional teacher of at least 94 % on CIFAR-10, and its logits on a fixed set of augmented views.

A network like ResNet-9 with a whitening first layer, GELU and max pooling, trained for a few epochs: matrices by Muon (K. Jordan
et al., "Muon: an optimizer for hidden layers in neural networks", 2024), biases by SGD with Nesterov momentum. The shape and
the order of the rates follow the published recipe of airbench (K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU",
arXiv:2404.00498, 2024); it costs about 0.3 PFLOP. The teacher is a float network: nothing of it goes to hardware.

It is resumable: everything random in epoch e is drawn from a generator seeded with (seed, e).
"""
import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from model import checkpoint
from model.command_line import command_line
from model.data import Augment, Images, load, normalisation
from model.views import Views, view_draws

FORMAT = "mst-teacher"
VIEWS = 8
"""Augmented views of each image whose logits are kept."""


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """Recipe of the teacher."""

    dataset: str = field(default="cifar10", metadata={"doc": "training set, 3 x 32 x 32"})
    classes: int = field(default=10, metadata={"doc": "number of classes"})
    widths: tuple[int, int, int] = field(default=(64, 256, 256), metadata={"doc": "channels of the three groups"})
    epochs: int = field(default=9, metadata={"doc": "passes over the training set"})
    batch: int = field(default=1000, metadata={"doc": "images a step"})
    bias_rate: float = field(default=0.053, metadata={"doc": "rate of biases"})
    head_rate: float = field(default=0.67, metadata={"doc": "rate of the head's weights"})
    matrix_rate: float = field(default=0.24, metadata={"doc": "rate of Muon's filters"})
    momentum: float = field(default=0.6, metadata={"doc": "Nesterov momentum of Muon; of SGD 0.85"})
    weight_decay: float = field(default=2e-6, metadata={"doc": "weight decay of SGD, times the batch, over the rate"})
    label_smoothing: float = field(default=0.2, metadata={"doc": "label smoothing"})
    whiten_bias_epochs: int = field(default=3, metadata={"doc": "epochs in which the bias of the whitening layer learns"})
    seed: int = field(default=1, metadata={"doc": "seed of initialisation, order and augmentation"})


def whitening(images: Tensor, kernel: int = 2, eps: float = 5e-4) -> Tensor:
    """Filters float [2 * 3 * kernel^2, 3, kernel, kernel] that whiten patches of normalised `images` [N, 3, H, W], and their
    negatives."""
    patches = images.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * kernel**2)
    covariance = patches.T @ patches / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / torch.sqrt(values + eps)).T.reshape(-1, images.shape[1], kernel, kernel).flip(0)
    return torch.cat((filters, -filters))


class Norm(nn.BatchNorm2d):
    """BatchNorm whose scale stays 1: the filters behind it carry the scale."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding="same", bias=False)
    with torch.no_grad():  # the first filters hand their inputs on
        nn.init.dirac_(conv.weight[:inputs])
    return conv


class Group(nn.Sequential):
    """Convolution, max pooling, norm, GELU, convolution, norm, GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(_conv(inputs, outputs), nn.MaxPool2d(2), Norm(outputs), nn.GELU(approximate="tanh"),
                         _conv(outputs, outputs), Norm(outputs), nn.GELU(approximate="tanh"))


class TeacherNet(nn.Module):
    """The teacher: normalised images float [B, 3, 32, 32] -> logits [B, classes]."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2, bias=True)
        self.whiten.weight.requires_grad_(False)
        self.groups = nn.Sequential(nn.GELU(approximate="tanh"), *(
            Group(inputs, outputs) for inputs, outputs in zip((24, *config.widths), config.widths, strict=False)))
        self.head = nn.Linear(config.widths[-1], config.classes, bias=False)
        nn.init.normal_(self.head.weight, std=config.widths[-1] ** -0.5)
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 images [B, 3, H, W] -> float32, in channels-last order."""
        x = (images.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]
        return x.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, 32, 32] -> logits [B, classes]."""
        x = self.groups(self.whiten(x))
        x = functional.max_pool2d(x, x.shape[-1]).flatten(1)
        return self.head(x) / 9  # type: ignore[no-any-return]


def orthogonal(update: Tensor, steps: int = 3) -> Tensor:
    """Matrix [rows, columns] near the orthogonal factor of `update`, by a quintic Newton-Schulz iteration (Muon)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update / (update.norm() + 1e-7)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if turned else x


class FilterMuon(torch.optim.Optimizer):
    """Muon for filters [out, in, h, w]: Nesterov momentum, the update made orthogonal, the filters kept at norm sqrt(out)."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step from the gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                held = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                update = p.grad.add(held, alpha=group["momentum"])
                p.mul_(len(p) ** 0.5 / p.norm())
                p.add_(orthogonal(update.reshape(len(p), -1)).view_as(p), alpha=-group["lr"])


class TeacherRun:
    """Training of the teacher in `folder`; resumes from `state.safetensors` there."""

    def __init__(self, config: TeacherConfig, data: Images, folder: Path, compiled: bool = True) -> None:
        self.config, self.folder, self.labels = config, folder, data.labels
        torch.manual_seed(config.seed)
        self.net = TeacherNet(config)
        mean, std = normalisation(config.dataset, data.images)
        self.net.mean.copy_(torch.tensor(mean))
        self.net.std.copy_(torch.tensor(std))
        with torch.no_grad():
            self.net.whiten.weight.copy_(whitening(self.net.normalise(data.images[:5000])))
            assert self.net.whiten.bias is not None
            self.net.whiten.bias.zero_()
        self.augment = Augment(data.images, 2)
        decay = config.weight_decay * config.batch
        filters = [p for p in self.net.groups.parameters() if p.ndim == 4]
        biases = [m.bias for m in self.net.modules() if isinstance(m, Norm)]
        self.sgd = torch.optim.SGD([
            {"params": [self.net.whiten.bias], "peak": config.bias_rate, "weight_decay": decay / config.bias_rate},
            {"params": biases, "peak": config.bias_rate, "weight_decay": decay / config.bias_rate},
            {"params": [self.net.head.weight], "peak": config.head_rate, "weight_decay": decay / config.head_rate},
        ], lr=0.0, momentum=0.85, nesterov=True)
        self.muon = FilterMuon(filters, config.matrix_rate, config.momentum)
        self.epoch = 0
        self.seconds = 0.0
        if self.state.exists():
            self._restore()
        self.forward = torch.compile(self.net) if compiled else self.net

    @property
    def state(self) -> Path:
        """File of the resumable state."""
        return self.folder / "state.safetensors"

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"net.{key}": value for key, value in self.net.state_dict().items()}
        for name, optimiser in (("sgd", self.sgd), ("muon", self.muon)):
            params = [p for group in optimiser.param_groups for p in group["params"]]
            for number, p in enumerate(params):
                if "momentum_buffer" in optimiser.state[p] and optimiser.state[p]["momentum_buffer"] is not None:
                    tensors[f"{name}.{number}"] = optimiser.state[p]["momentum_buffer"]
        return tensors

    def _restore(self) -> None:
        tensors, info = checkpoint.read(self.state, FORMAT)
        if info["config"] != json.loads(json.dumps(asdict(self.config))):
            raise checkpoint.CheckpointError(f"{self.state}: belongs to another recipe: remove it")
        self.net.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("net.")})
        for name, optimiser in (("sgd", self.sgd), ("muon", self.muon)):
            params = [p for group in optimiser.param_groups for p in group["params"]]
            for number, p in enumerate(params):
                if f"{name}.{number}" in tensors:
                    optimiser.state[p]["momentum_buffer"] = tensors[f"{name}.{number}"].clone()
        self.epoch, self.seconds = info["epoch"], info["seconds"]

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels of the next epoch. Each image is mirrored in every other one (alternating flip)."""
        config = self.config
        first = torch.rand(len(self.labels), generator=torch.Generator().manual_seed(config.seed)) < 0.5
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.labels), generator=random)
        corner = torch.randint(5, (len(self.labels), 2), generator=random)
        flip = first ^ bool(self.epoch % 2)
        for start in range(0, len(order) - config.batch + 1, config.batch):
            chosen = order[start:start + config.batch]
            yield self.augment.apply(chosen, corner[chosen], flip[chosen]), self.labels[chosen]

    def run_epoch(self) -> float:
        """One epoch; returns the mean loss."""
        config, started = self.config, time.process_time()
        steps = len(self.labels) // config.batch
        total, whole = config.epochs * steps, 0.0
        self.net.train()
        assert self.net.whiten.bias is not None
        self.net.whiten.bias.requires_grad_(self.epoch < config.whiten_bias_epochs)
        for index, (images, labels) in enumerate(tqdm(self._batches(), total=steps, mininterval=10,
                                                      desc=f"epoch {self.epoch + 1}/{config.epochs}")):
            step = self.epoch * steps + index
            left = 1 - step / total
            bias_left = max(0.0, 1 - step / (config.whiten_bias_epochs * steps))
            for number, group in enumerate(self.sgd.param_groups):
                group["lr"] = group["peak"] * (bias_left if number == 0 else left)
            self.muon.param_groups[0]["lr"] = config.matrix_rate * left
            logits = self.forward(self.net.normalise(images))
            loss = functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
            loss.backward()
            self.sgd.step()
            self.muon.step()
            self.sgd.zero_grad()
            self.muon.zero_grad()
            whole += float(loss.detach())
        self.epoch += 1
        self.seconds += time.process_time() - started
        self.save()
        return whole / steps

    def save(self) -> None:
        """Write the resumable state."""
        checkpoint.write(self.state, self._tensors(), FORMAT, {
            "config": asdict(self.config), "epoch": self.epoch, "seconds": round(self.seconds, 1)})


@torch.no_grad()
def teacher_logits(net: TeacherNet, images: Tensor) -> Tensor:
    """Logits float32 [B, classes] of uint8 images, the mean over the image and its mirror image."""
    x = net.normalise(images)
    return (net(x) + net(x.flip(-1).contiguous(memory_format=torch.channels_last))) / 2


@torch.no_grad()
def measured_accuracy(net: TeacherNet, data: Images, batch: int = 500) -> float:
    """Share of `data` that the teacher classifies correctly, over six views of each image: itself, shifted by a pixel to two
    corners, and the mirror images of these (the published recipe's evaluation)."""
    net.eval()
    right = 0
    for start in range(0, len(data.labels), batch):
        images = data.images[start:start + batch]
        padded = functional.pad(images.float(), (1,) * 4, mode="reflect")
        logits = sum((weight * teacher_logits(net, view) for weight, view in (
            (0.5, images), (0.25, padded[:, :, :-2, :-2]), (0.25, padded[:, :, 2:, 2:]))), torch.zeros(()))
        right += int((logits.argmax(1) == data.labels[start:start + batch]).sum())
    return right / len(data.labels)


@torch.no_grad()
def make_views(net: TeacherNet, data: Images, seed: int, pad: int, path: Path, digest: str, views: int = VIEWS) -> None:
    """Write the logits float16 [views, N, classes] of `views` augmented views of each training image to `path`; one view's
    file at a time is kept, so that an interrupted run goes on."""
    net.eval()
    augment = Augment(data.images, pad)
    found = []
    for view in range(views):
        part = path.with_name(f"{path.stem}.{view}.part.safetensors")
        own = {"view": view, "seed": seed, "pad": pad, "teacher": digest}
        if part.exists():
            kept, info = checkpoint.read(part, FORMAT)
            if info == own:  # else it is another teacher's
                found.append(kept["logits"])
                continue
        corner, flip = view_draws(seed, view, len(data.labels), pad)
        logits = []
        for start in tqdm(range(0, len(data.labels), 500), desc=f"view {view + 1}/{views}", mininterval=10):
            index = torch.arange(start, min(start + 500, len(data.labels)))
            logits.append(net(net.normalise(augment.apply(index, corner[index], flip[index]))).half())
        found.append(torch.cat(logits))
        checkpoint.write(part, {"logits": found[-1]}, FORMAT, own)
    Views(torch.stack(found), seed, pad, digest).save(path)
    for view in range(views):
        path.with_name(f"{path.stem}.{view}.part.safetensors").unlink(missing_ok=True)


def load_net(path: Path) -> tuple[TeacherNet, dict[str, object]]:
    """The network of a teacher's state, and its info; CheckpointError for a bad file."""
    tensors, info = checkpoint.read(path, FORMAT)
    config = TeacherConfig(**{**info["config"], "widths": tuple(info["config"]["widths"])})
    net = TeacherNet(config)
    net.load_state_dict({key[4:]: value.float() for key, value in tensors.items() if key.startswith("net.")})
    return net, info


def train_teacher(config: TeacherConfig, folder: Path, root: str | None) -> None:
    """Train to the end (resuming), then measure on the official test images and print one line of JSON."""
    run = TeacherRun(config, load(config.dataset, True, root), folder)
    while run.epoch < config.epochs:
        tqdm.write(f"epoch {run.epoch + 1}: loss {run.run_epoch():.4f}, {run.seconds:.0f} s of processor time")
    accuracy = measured_accuracy(run.net, load(config.dataset, False, root))
    print(json.dumps({"test_accuracy": accuracy, "epochs": run.epoch, "processor_seconds": round(run.seconds)}))


@command_line()
def main(argv: list[str] | None = None) -> int:
    """`python -m model.teacher`: train, then write the views."""
    parser = argparse.ArgumentParser(prog="python -m model.teacher", description=__doc__)
    parser.add_argument("--data", help="folder that holds the data sets (default: $MST_DATA, or data)")
    parser.add_argument("--runs", default="runs", help="folder of the resumable state (default: runs)")
    parser.add_argument("--epochs", type=int, default=TeacherConfig().epochs, help="passes over the training set (default: 9)")
    parser.add_argument("--views", type=int, default=VIEWS, help="augmented views whose logits are kept (default: 8)")
    parser.add_argument("-o", "--output", help="file of the views (default: in the run's folder)")
    args = parser.parse_args(argv)
    for flag, value in (("--epochs", args.epochs), ("--views", args.views)):
        if value < 1:
            raise ValueError(f"{flag} must be at least 1, not {value}")
    torch.set_num_threads(1)
    folder = Path(args.runs) / "cifar10-teacher"
    config = TeacherConfig(epochs=args.epochs)
    train_teacher(config, folder, args.data)
    net, _ = load_net(folder / "state.safetensors")
    digest = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    make_views(net, load(config.dataset, True, args.data), config.seed, 4, Path(args.output or folder / "views.safetensors"),
               digest, args.views)
    return 0


if __name__ == "__main__":
    sys.exit(main())
