"""What `python -m model import` and `reference` do; bad arguments raise a ValueError of one line."""
import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from model import checkpoint
from model.command_line import output_file
from model.data import NORMALISATION, load
from model.datasets import DATASETS
from model.reference import adopt, files
from model.reference.network import Reference
from model.reference.shape import ReferenceModelError


def run_import(args: argparse.Namespace) -> None:
    """Read a checkpoint, write the safetensors file, say what was found and what has no integer form."""
    if Path(args.output).resolve() == Path(args.file).resolve():
        raise ReferenceModelError(f"{args.output}: is the checkpoint itself: give another -o")
    model, info = files.import_checkpoint(args.file, args.image_size)
    files.save(args.output, model, info)
    print(f"{args.output}: {model.parameters_count} parameters; {model.shape}")
    for why in files.unmappable(model):
        print(f"not for the machine: {why}")
    print(f"its way there: python -m model adopt {args.output} --dataset NAME -o OWN.toml, then train on (docs/reference.md)")


def run_adopt(args: argparse.Namespace) -> None:
    """Write an imported network as a checkpoint of ours, and a configuration that trains on from it."""
    output = Path(args.output)
    start = output.with_suffix(".start.safetensors")
    if output.suffix != ".toml":
        raise ReferenceModelError(f"{output}: is no name of a configuration: give one that ends in .toml")
    if output.exists():
        raise ReferenceModelError(f"{output}: is there already: name another file, or remove it")
    if args.dataset not in NORMALISATION:
        raise ReferenceModelError(f"--dataset: unknown data set {args.dataset!r}; known: {', '.join(NORMALISATION)}")
    model = adopt.adopted(files.load(args.file), args.levels)
    mean, std = NORMALISATION[args.dataset]
    count = DATASETS[args.dataset].class_count
    if count and count != model.config.classes:
        raise ReferenceModelError(f"--dataset {args.dataset} has {count} classes, the network {model.config.classes}: name "
                                  "the data set that it was trained on (another head is not made)")
    if len(mean) != model.config.in_channels:
        raise ReferenceModelError(f"--dataset {args.dataset} has {len(mean)} channels, the network takes "
                                  f"{model.config.in_channels}")
    model.mean.copy_(torch.tensor(mean))
    model.std.copy_(torch.tensor(std))
    for path in (start, output):
        output_file(path)
    checkpoint.save(start, model, {"dataset": args.dataset, "source": Path(args.file).name})
    output.write_text(adopt.config_text(model.config, source=Path(args.file).name, path=str(output), dataset=args.dataset,
                                        start=str(start)), encoding="utf-8")
    print(f"{start}: the same weights, L = {args.levels}\n{output}: next, python -m model train --config {output}")


def pixels(images: Tensor, dataset: str, model: Reference) -> Tensor:
    """uint8 images [B, C, H, W] -> normalised float images of the network's size (bicubic, as the authors resize CIFAR)."""
    if dataset not in NORMALISATION:
        raise ReferenceModelError(f"--dataset: unknown data set {dataset!r}; known: {', '.join(NORMALISATION)}")
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMALISATION[dataset])
    if len(mean) != model.shape.in_channels:
        raise ReferenceModelError(f"--dataset {dataset} has {len(mean)} channels, the network takes {model.shape.in_channels}")
    size = model.shape.image_size
    real = torch.nn.functional.interpolate(images.float() / 255, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (real - mean) / std


def run_reference(args: argparse.Namespace) -> None:
    """Print shape, source and accuracies of an imported network as JSON."""
    try:
        steps = sorted({int(step) for step in args.steps.split(",")})
    except ValueError:
        raise ValueError(f"--steps must be integers with commas between, not {args.steps!r}") from None
    if steps[0] < 1 or args.batch < 1 or args.threads < 1:
        raise ValueError(f"--steps, --batch and --threads must be at least 1, not {steps[0]}, {args.batch}, {args.threads}")
    if not 0 <= args.mask_ratio < 1:
        raise ValueError(f"--mask-ratio must be in [0, 1), not {args.mask_ratio:g}")
    torch.set_num_threads(args.threads)
    model = files.load(args.file, args.mask_ratio)
    result: dict[str, object] = {"file": args.file, "parameters": model.parameters_count, "levels": model.levels,
                                 "shape": files.as_dict(model.shape)}
    if args.dataset:
        data = load(args.dataset, False, args.data)
        if not 1 <= args.images <= len(data.labels):
            raise ValueError(f"--images must be 1 to {len(data.labels)}, not {args.images}")
        if int(data.labels.max()) >= model.shape.classes:
            raise ReferenceModelError(f"--dataset {args.dataset} has more classes than the network's {model.shape.classes}")
        torch.manual_seed(args.seed)
        right, stepwise = 0, torch.zeros(len(steps), dtype=torch.int64)
        for start in tqdm(range(0, args.images, args.batch), desc="reference", mininterval=5):
            labels = data.labels[start:min(start + args.batch, args.images)]
            x = pixels(data.images[start:start + len(labels)], args.dataset, model)
            right += int((model.logits(x).argmax(1) == labels).sum())
            sums = model.logits(x, "stepwise", steps[-1])
            stepwise += (sums[torch.tensor(steps) - 1].argmax(2) == labels).sum(1)
        result |= {"dataset": args.dataset, "images": args.images, "mask_ratio": args.mask_ratio, "qcfs": right / args.images,
                   "stepwise": {str(t): int(hits) / args.images for t, hits in zip(steps, stepwise, strict=True)}}
    print(json.dumps(result, indent=2))
