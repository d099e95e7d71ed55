"""What `python -m model import` and `reference` do; bad arguments raise a ValueError of one line."""
import argparse
import json
from pathlib import Path

import torch
from tqdm import tqdm

from model import checkpoint
from model.command_line import output_file
from model.dataset import Representation
from model.datasets import DATASETS, read
from model.reference import adopt, files
from model.reference.pictures import normalisation, pixels
from model.reference.shape import ReferenceModelError
from model.start import KEPT


def run_import(args: argparse.Namespace) -> None:
    """Read a checkpoint, write the safetensors file, say what was found and what has no integer form."""
    if Path(args.output).resolve() == Path(args.file).resolve():
        raise ReferenceModelError(f"{args.output}: is the checkpoint itself: give another -o")
    model, info = files.import_checkpoint(args.file, args.image_size)
    files.save(args.output, model, info)
    print(f"{args.output}: {model.parameters_count} parameters; {model.shape}")
    scale = "head^-1/2" if model.qk_scale is None else f"{model.qk_scale:g}"
    ratio = "not named" if info["mask_ratio"] is None else f"{info['mask_ratio']:g}"
    print(f"its configuration: L (t) {model.levels}, factor of the scores (QK_SCALE) {scale}, MASKING_RATIO {ratio}")
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
    mean, std = normalisation(args.dataset)
    reference = files.load(args.file, mask_ratio=None)
    model = adopt.adopted(reference, args.levels)
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
    checkpoint.save(start, model, {"dataset": args.dataset, "source": Path(args.file).name, KEPT: True})
    ratio = round(reference.mask_ratio * 256) / 256
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    output.write_text(adopt.config_text(model.config, source=Path(args.file).name, path=str(output), dataset=args.dataset,
                                        start=start.name, ratio=ratio,
                                        weights=weights), encoding="utf-8")
    if ratio or reference.mask_ratio:
        print(f"[masking] ratio = {ratio:g}: the checkpoint's {reference.mask_ratio:g}" + (
            "" if ratio == reference.mask_ratio else ", to the nearest multiple of 1/256"))
    print(f"{start}: the same weights, L = {args.levels}\n{output}: next, python -m model train --config {output}")


def run_reference(args: argparse.Namespace) -> None:
    """Print shape, source and accuracies of an imported network as JSON."""
    try:
        steps = sorted({int(step) for step in args.steps.split(",")})
    except ValueError:
        raise ValueError(f"--steps must be integers with commas between, not {args.steps!r}") from None
    if steps[0] < 1 or args.batch < 1 or args.threads < 1:
        raise ValueError(f"--steps, --batch and --threads must be at least 1, not {steps[0]}, {args.batch}, {args.threads}")
    if args.mask_ratio is not None and not 0 <= args.mask_ratio < 1:
        raise ValueError(f"--mask-ratio must be in [0, 1), not {args.mask_ratio:g}")
    torch.set_num_threads(args.threads)
    model = files.load(args.file, args.mask_ratio, args.always_draw)
    result: dict[str, object] = {"file": args.file, "parameters": model.parameters_count, "levels": model.levels,
                                 "qk_scale": model.qk_scale, "mask_ratio": model.mask_ratio,
                                 "always_draw": args.always_draw, "shape": files.as_dict(model.shape)}
    if args.dataset:
        if args.images < 1:
            raise ValueError(f"--images must be at least 1, not {args.images}")
        side, channels, classes = model.shape.image_size, model.shape.in_channels, model.shape.classes
        normalisation(args.dataset)  # refused before anything is read
        found, truth = (torch.from_numpy(array) for array in
                        read(args.dataset, False, args.data, Representation(side), args.images))
        if args.images > len(truth):
            raise ValueError(f"--images must be 1 to {len(truth)}, not {args.images}")
        if int(truth.max()) >= classes:
            raise ReferenceModelError(f"--dataset {args.dataset} has more classes than the network's {classes}")
        torch.manual_seed(args.seed)
        right, stepwise = 0, torch.zeros(len(steps), dtype=torch.int64)
        for start in tqdm(range(0, args.images, args.batch), desc="reference", mininterval=5):
            labels = truth[start:min(start + args.batch, args.images)]
            x = pixels(found[start:start + len(labels)], args.dataset, channels, side)
            right += int((model.logits(x).argmax(1) == labels).sum())
            sums = model.logits(x, "stepwise", steps[-1])
            stepwise += (sums[torch.tensor(steps) - 1].argmax(2) == labels).sum(1)
        result |= {"dataset": args.dataset, "images": args.images, "qcfs": right / args.images,
                   "stepwise": {str(t): int(hits) / args.images for t, hits in zip(steps, stepwise, strict=True)}}
    print(json.dumps(result, indent=2, allow_nan=False))
