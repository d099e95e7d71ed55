"""What the two commands of `python -m model` do; bad arguments raise a ValueError of one line."""
import argparse
import json
import os
import shutil
from pathlib import Path

import torch

from model import checkpoint
from model import config as configuration
from model.data import Images, fit, load_for
from model.evaluate import evaluate
from model.train import Trainer


def set_threads(count: int) -> None:
    """Let torch use `count` threads, or one in each process under torchrun; ValueError below 1."""
    if count < 1:
        raise ValueError(f"--threads must be at least 1, not {count}")
    torch.set_num_threads(count)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("gloo")
        torch.set_num_threads(1)


def train(args: argparse.Namespace) -> None:
    """Train, then write the averaged network."""
    config = configuration.load(args.config)
    set_threads(args.threads)
    folder = Path(args.runs) / config.name
    trainer = Trainer(config, load_for(config, True, args.data), folder, compiled=not args.no_compile,
                      bfloat16=not args.float32, resume=not args.restart)
    trainer.run()
    if trainer.rank:
        return
    output = Path(args.output or Path(args.config).with_suffix(".safetensors"))
    shutil.copyfile(folder / "last.safetensors", output)
    print(f"{output}: {trainer.epoch} epochs")


def test(args: argparse.Namespace, argv: list[str]) -> None:
    """Evaluate a trained network and print (and write) the JSON."""
    set_threads(args.threads)
    config = configuration.load(args.config)
    path = Path(args.checkpoint or Path(args.config).with_suffix(".safetensors"))
    model, info = checkpoint.load(path)
    checkpoint.expect(path, model, config.model)
    data = load_for(config, False, args.data)
    if not 0 <= args.images <= len(data.labels):
        raise ValueError(f"--images must be 0 (all) to {len(data.labels)}, not {args.images}")
    count = args.images or len(data.labels)
    try:
        steps = [int(step) for step in args.steps.split(",")]
    except ValueError:
        raise ValueError(f"--steps must be integers with commas between, not {args.steps!r}") from None
    pixels = fit(data.images[:count], config.model.in_channels, config.model.image_size)
    result = evaluate(model, Images(pixels, data.labels[:count]), args.modes.split(","), steps,
                      compiled=not args.no_compile)
    result |= {"dataset": config.train.dataset, "epochs": info.get("epoch"),
               "command": f"python -m model {' '.join(argv)}"}
    if os.environ.get("RANK", "0") != "0":
        return
    text = json.dumps(result, indent=2)
    print(text)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
