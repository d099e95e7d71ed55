"""Training of the float QCFS network: AdamW, warm-up and cosine, averaged weights, a teacher, exactly resumable.

Everything random in epoch e comes from a generator seeded with (seed, e) or from the numbers of the images, and the state is
saved after each epoch, so a resumed run repeats the uninterrupted one. A batch is worked on in parts (`model.parallel`), so
that processes started by torchrun compute what a single one does; one thread each is much faster than two threads on cores
that others use too.
"""
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from model import augment, checkpoint
from model.config import Config, TrainConfig
from model.data import Images, digest, enlarged
from model.distill import Teacher, distillation
from model.factory import build
from model.neuron import DrawnMasks, Engine, LfsrMasks, PlanEngine, TrainEngine
from model.parallel import Parts, World
from model.precision import chosen
from model.qcfs import QCFS
from model.spiking import SpikingNetwork
from model.start import begin
from model.stream import StreamedAugment, StreamedPictures
from model.tensorboard import EventFile
from model.training_data import TrainingError, training_set

__all__ = ["Trainer", "TrainingError", "accuracy", "average", "groups", "rate_at"]

CAST = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


STATE_NAMES = ("optimiser", "optimiser2")
"""Prefix of each optimiser's tensors in a state."""


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
    """Learning rate of `step`: linear warm-up, then a cosine to `final_rate` of the peak."""
    warm, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warm:
        return config.rate * (step + 1) / warm
    share = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
    return config.rate * (config.final_rate + (1 - config.final_rate) * share)


def average(mean: SpikingNetwork, model: SpikingNetwork, decay: float) -> None:
    """mean = decay * mean + (1 - decay) * model, parameters and BatchNorm statistics alike."""
    with torch.no_grad():
        pairs = [(a, b) for a, b in zip(mean.state_dict().values(), model.state_dict().values(), strict=True)]
        torch._foreach_lerp_([a for a, _ in pairs if a.is_floating_point()],
                             [b for a, b in pairs if a.is_floating_point()], 1 - decay)


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Optimiser groups: weight decay on matrices only, not on biases, norms, thresholds and bias tables."""
    matrices = [p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim >= 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimisers(model: nn.Module, settings: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimisers of `[train] optimiser`: Muon (K. Jordan et al., 2024) takes the matrices, AdamW what is left."""
    matrices, others = groups(model, settings.weight_decay)
    if settings.optimiser == "adamw":
        return [torch.optim.AdamW([matrices, others], lr=0.0, fused=True)]
    params = matrices["params"]
    assert isinstance(params, list)
    flat = [p for p in params if p.ndim == 2]
    filters = {"params": [p for p in params if p.ndim != 2], "weight_decay": settings.weight_decay}
    muon = torch.optim.Muon(flat, lr=0.0, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW([filters, others] if filters["params"] else [others], lr=0.0, fused=True)]


def accuracy(model: SpikingNetwork, data: Images, batch: int = 500) -> float:
    """Share of `data` that the QCFS network classifies correctly (evaluation statistics), image i masked as image i."""
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data.labels), batch):
            images = enlarged(data.images[start:start + batch], model.config.image_size)
            index = torch.arange(start, start + len(images))
            right += int((model(model.normalise(images), index).argmax(1) == data.labels[start:start + batch]).sum())
    return right / len(data.labels)


def _differences(before: str, now: str) -> str:
    """What two `Trainer.identity` differ in, " (key was 1, is 2, ...)"; "" where one of them cannot be read."""
    try:
        found = []
        for text in (before, now):
            shape, settings, teacher = json.loads(text)
            settings = {"split": "last"} | settings
            found.append({f"[{table}] {key}": value for table, entries in {**shape, "train": settings}.items()
                          for key, value in entries.items()} | {"the teacher's file": teacher})
    except (ValueError, AttributeError):
        return ""
    was, now_is = found
    changed = [f"{key} was {was.get(key)}, is {now_is.get(key)}" for key in (was | now_is) if was.get(key) != now_is.get(key)]
    return f" ({'; '.join(changed[:3])}{'; ...' if changed[3:] else ''})"


def _placeless(identity: str) -> str:
    """A `Trainer.identity` with the bare names of its files: where they lie is no part of a run, their digests are."""
    try:
        shape, settings, teacher = json.loads(identity)
        named = {key: Path(settings[key]).name for key in ("start", "teacher") if settings.get(key)}
        return json.dumps([shape, settings | named, teacher], sort_keys=True)
    except (ValueError, TypeError, AttributeError):
        return identity


class Trainer:
    """A training run in the folder `folder`; resumes from its `state.safetensors` where there is one."""

    def __init__(self, config: Config, data: Images | StreamedPictures, folder: Path, compiled: bool = True,
                 bfloat16: bool = True, resume: bool = True, teacher: Teacher | None = None, device: str = "cpu") -> None:
        """data: training images (uint8 [N, C, H, W], or a stream); the `holdout` that `[train] split` picks only
        measure accuracy.

        `bfloat16` off computes in float32 whatever the configuration says; with a `teacher` the loss is also its.
        """
        self.config, self.folder, self.teacher, self.device = config, folder, teacher, torch.device(device)
        resume = resume and self.state_path.exists()
        wanted = config.train.precision if bfloat16 else "float32"
        precision, why = chosen(wanted, self.device, self._saved_precision() if resume else None)
        self.precision_note = f"computing in {precision}: {why}"
        self.settings = settings = dataclasses.replace(config.train, precision=precision)
        self.world = World.now()
        self.parts = self.world.mine(settings.shards)
        torch.manual_seed(settings.seed)
        found = training_set(config, data, self.device)
        self.data_digest = digest(data) if isinstance(data, Images) else data.part.digest()
        self.held, self.augment, self.labels = found.held, found.augment, found.labels
        self.class_names = data.class_names
        self.model = build(config)
        mean, std = found.statistics
        self.model.mean.copy_(torch.tensor(mean))
        self.model.std.copy_(torch.tensor(std))
        self.mean = build(config).requires_grad_(False).to(self.device)
        self.model.to(self.device)
        self.optimisers = optimisers(self.model, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "float16")
        self.epoch = 0
        self.log: list[dict[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)  # before the first epoch, not behind it
        self.events = EventFile(folder)
        first = self.model.normalise(found.first)
        if resume:
            self.restore()
        else:
            self._start(first)
        if teacher is not None:
            teacher.model.to(self.device).eval()
        self.plan = PlanEngine()
        with torch.no_grad():
            self.model.eval().run(first[:1], self.plan)
        self.model.train()
        self.forward: Callable[[Tensor, Engine], Tensor] = torch.compile(self.model.run) if compiled else self.model.run

    def _start(self, images: Tensor) -> None:
        """Weights of a new run: those of `[train] start`, or the teacher's where it has the same shape, else thresholds
        fitted to normalised `images`."""
        teacher = self.teacher
        if self.settings.start:
            begin(self.model, self.config.beside("train", "start", self.settings.start), images)
        elif teacher is not None and self.settings.warm_start and teacher.model.config == self.config.model:
            self.model.load_state_dict(teacher.model.state_dict())
        else:
            self.model.train()
            with torch.no_grad():
                self.model.run(images, CalibrateEngine())
        self.mean.load_state_dict(self.model.state_dict())

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.world.rank

    @property
    def state_path(self) -> Path:
        """File of the resumable state."""
        return self.folder / "state.safetensors"

    def _saved_precision(self) -> str | None:
        """The format that the saved state was computed in; None where it does not say one, which `restore` then refuses."""
        _, info = checkpoint.read(self.state_path, checkpoint.STATE_FORMAT)
        try:
            found = json.loads(info["config"])[1]["precision"]
        except (ValueError, TypeError, KeyError, IndexError):
            return None
        return found if found in CAST else None

    def restore(self) -> None:
        """Continue from the saved state; CheckpointError where it belongs to another configuration."""
        tensors, info = checkpoint.read(self.state_path, checkpoint.STATE_FORMAT)
        if not isinstance(info.get("config"), str) or type(info.get("epoch")) is not int or not isinstance(info.get("log"), list):
            raise checkpoint.CheckpointError(f"{self.state_path}: does not say what it is the state of: train with --restart")
        if _placeless(info["config"]) != _placeless(self.identity()):
            raise checkpoint.CheckpointError(f"{self.state_path}: belongs to another configuration"
                                             f"{_differences(info['config'], self.identity())}: "
                                             "remove it, or train with --restart")
        if info.get("data", self.data_digest) != self.data_digest:  # states of before say nothing of it
            raise checkpoint.CheckpointError(f"{self.state_path}: its training images were others than those of "
                                             f"{self.settings.dataset} now: give it the same (--data), or train with --restart")
        self.model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        self.mean.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("mean.")})
        for number, optimiser in enumerate(self.optimisers):
            checkpoint.restore_optimiser(optimiser, tensors, STATE_NAMES[number])
        self.epoch, self.log = info["epoch"], info["log"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(info["scaler"])

    def save(self) -> None:
        """Write the resumable state and the averaged network (`last.safetensors`) of this epoch."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.state_dict().items()}
        for number, optimiser in enumerate(self.optimisers):
            tensors |= checkpoint.optimiser_tensors(optimiser, STATE_NAMES[number])
        info = {"config": self.identity(), "epoch": self.epoch, "log": self.log, "scaler": self.scaler.state_dict(),
                "data": self.data_digest}
        checkpoint.save(self.folder / "last.safetensors", self.mean, self.info())
        checkpoint.write(self.state_path, tensors, checkpoint.STATE_FORMAT, info)

    def identity(self) -> str:
        """What a state must share with the configuration to be resumed."""
        # States written before these keys were there can be resumed.
        defaults = {"start": "", "optimiser": "adamw", "split": "last"}
        settings = {key: value for key, value in dataclasses.asdict(self.settings).items()
                    if key not in defaults or value != defaults[key]}
        return json.dumps([checkpoint.describe(self.model), settings, self.teacher and self.teacher.digest], sort_keys=True)

    def info(self) -> dict[str, object]:
        """Metadata of a network saved now."""
        start = "python" if self.world.size == 1 else f"torchrun --nproc-per-node={self.world.size}"
        return {"dataset": self.settings.dataset, "split": self.settings.split,
                "epoch": self.epoch, "epochs": self.settings.epochs,
                "held_out_accuracy": self.log[-1]["held_out"] if self.log else None,
                **({"class_names": list(self.class_names)} if self.class_names else {}),
                **({"teacher_sha256": self.teacher.digest} if self.teacher else {}),
                "command": f"{start} -m model {'distill' if self.teacher else 'train'} --config configs/{self.config.name}.toml"}

    def _part(self, chosen: Tensor, crop: tuple[Tensor, Tensor], draws: augment.Draws) -> Tensor:
        """Loss of one part of a batch: images `chosen` (int64 [b]) with what was drawn for them."""
        settings = self.settings
        images = self.augment.apply(chosen, *crop)
        images = enlarged(augment.change(images, settings.randaugment_magnitude, draws), self.config.model.image_size)
        labels = self.labels[chosen.to(self.device)]
        masks = None
        if self.config.masking.active:  # redrawn in each epoch, as `stepwise` does in each time step
            lfsr = LfsrMasks(self.config.masking, self.config.model, chosen.to(self.device), self.epoch + 1)
            drawn = {name: lfsr.keep(name, torch.Size((len(chosen), rows, columns)), rows)
                     for name, rows, columns in self.plan.sites}
            masks = DrawnMasks({name: keep for name, keep in drawn.items() if keep is not None})
        engine = TrainEngine(masks, augment.paths(self.plan.branches, settings.drop_path, draws))
        dtype = CAST[settings.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32):
            mixed, targets = augment.mix(self.model.normalise(images), labels, self.config.model.classes, draws)
            logits = self.forward(mixed, engine).float()
            wanted = self.teacher.logits(mixed) if self.teacher else None
        loss = functional.cross_entropy(logits, targets, label_smoothing=settings.label_smoothing)
        if wanted is None:
            return loss
        share = settings.distill_weight
        return (1 - share) * loss + share * distillation(logits, wanted, settings.temperature)

    def step(self, chosen: Tensor, step: int, rate: float, random: torch.Generator) -> float:
        """One step on the images `chosen` (int64 [batch]) at learning rate `rate`; returns the loss of the whole batch."""
        settings, size = self.settings, len(chosen) // self.settings.shards
        for group in (group for optimiser in self.optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        crop = self.augment.draw(len(chosen), random)
        draws = augment.draw(settings, len(chosen), self.config.model.in_channels, self.augment.side,
                             len(self.plan.branches), random)
        parts = Parts(self.model)
        parts.begin()
        for number in self.parts:
            part = slice(number * size, (number + 1) * size)
            parts.restore()
            loss = self._part(chosen[part], (crop[0][part], crop[1][part]), draws.rows(part, self.device))
            self.scaler.scale(loss).backward()
            parts.add(loss.detach()[None])
        loss_value = float(parts.finish(self.world))
        if not math.isfinite(loss_value):
            raise TrainingError(f"the loss is {loss_value} in epoch {self.epoch + 1}, step {step}: lower [train] rate; "
                                f"{self.folder} keeps the state of epoch {self.epoch}")
        for optimiser in self.optimisers:
            self.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        for optimiser in self.optimisers:
            self.scaler.step(optimiser)
            optimiser.zero_grad()
        self.scaler.update()
        average(self.mean, self.model, min(settings.average, (step + 1) / (step + 10)))
        return loss_value

    def run_epoch(self) -> dict[str, float]:
        """One pass over the training images; returns the entry added to the log."""
        settings = self.settings
        random = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.labels), generator=random)[:settings.epoch_images or None]
        steps = len(order) // settings.batch
        if not steps:
            raise ValueError(f"[train] batch {settings.batch} exceeds the {len(order)} training images: lower it")
        if isinstance(self.augment, StreamedAugment):
            self.augment.begin(order[:steps * settings.batch].view(steps, settings.shards, -1)[:, list(self.parts)].flatten(0, 1))
        self.model.train()
        started, total = time.time(), 0.0
        scalars: list[tuple[str, float, int]] = []
        bar = tqdm(range(steps), desc=f"epoch {self.epoch + 1}/{settings.epochs}", mininterval=10,
                   disable=self.rank > 0)
        for index in bar:
            step = self.epoch * steps + index
            rate = rate_at(settings, step, steps)
            loss = self.step(order[index * settings.batch:(index + 1) * settings.batch], step, rate, random)
            total += loss
            scalars += [("train/loss", loss, step), ("train/rate", rate, step)]
            bar.set_postfix(loss=f"{total / (index + 1):.3f}", refresh=False)
        self.epoch += 1
        entry = {"epoch": self.epoch, "loss": total / steps, "seconds": time.time() - started}
        entry["held_out"] = accuracy(self.mean, self.held) if len(self.held.labels) else float("nan")
        self.log.append(entry)
        self.scalars = [*scalars, *((f"epoch/{key}", value, self.epoch) for key, value in entry.items() if key != "epoch")]
        return entry

    def run(self, epochs: int | None = None) -> None:
        """Train up to the configured epoch, or for `epochs` more of them, saving after each."""
        last = self.settings.epochs if epochs is None else min(self.settings.epochs, self.epoch + epochs)
        while self.epoch < last:
            entry = self.run_epoch()
            if self.rank:
                continue
            self.save()
            self.events.write(self.scalars)
            tqdm.write(" ".join(f"{key} {value:.4g}" for key, value in entry.items()))
