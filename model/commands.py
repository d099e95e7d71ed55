"""What the commands of `python -m model` do; bad arguments raise a ValueError of one line."""
import argparse
import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import torch

from model import checkpoint
from model import config as configuration
from model.command_line import output_file
from model.config import PRETRAIN, Config
from model.data import Images, fit, load_for
from model.distill import UNMASKED, Teacher
from model.evaluate import evaluate
from model.stream import training_pictures
from model.train import Trainer


def set_threads(count: int) -> None:
    """Let torch use `count` threads, or one in each process under torchrun; ValueError below 1."""
    if count < 1:
        raise ValueError(f"--threads must be at least 1, not {count}")
    torch.set_num_threads(count)
    if torch.cuda.is_available():  # a seed is to give the same run: no sums in the order in which threads happen to arrive
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if "WORLD_SIZE" in os.environ:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        torch.set_num_threads(1)
        if torch.cuda.is_available():
            torch.cuda.set_device(device())


def leave() -> None:
    """End the exchange with the other processes, where there was one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def device() -> str:
    """The GPU of this process where there is one, else the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


WRITTEN = "written.sha256"
"""In a run's folder: the digest of the network file that the run has written last, so that it may write it again."""


def own_output(config: Config, folder: Path) -> Path:
    """Where the run in `folder` writes its network: beside the configuration, but for a network that another run trained.

    That one is not overwritten: then it is a file of the run's own folder.
    """
    output = checkpoint.of(config)
    if not output.exists() or _digest(output) in (_recorded(folder), _digest(folder / "last.safetensors")):
        return output
    print(f"{output} is of another run and stays; the network goes to {folder / output.name} (--output {output} overwrites it)")
    return folder / output.name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _recorded(folder: Path) -> str:
    return (folder / WRITTEN).read_text(encoding="ascii") if (folder / WRITTEN).is_file() else ""


def _run(args: argparse.Namespace, config: Config, output: Path, teacher: Path | None) -> bool:
    """One phase: train `config`, with the `teacher` if any, into `output`; False where it stopped before the last epoch."""
    learnt_from = None if teacher is None else Teacher.load(teacher, config.model)
    folder = Path(args.runs) / config.name
    data = training_pictures(config, args.data, args.memory, args.workers)
    if not isinstance(data, Images):
        print(f"{config.name}: {len(data.part)} pictures, {data.size / 2**30:.2f} GiB decoded: read in a stream by "
              f"{data.workers} workers")
    trainer = Trainer(config, data, folder, compiled=not args.no_compile,
                      bfloat16=not args.float32, resume=not args.restart, teacher=learnt_from, device=device())
    if trainer.rank == 0:
        print(f"{config.name}: {trainer.precision_note}")
    trainer.run(args.stop_after)
    done = trainer.epoch == config.train.epochs
    if trainer.rank == 0 and trainer.epoch:
        partial = output.with_name(output.name + ".part")
        shutil.copyfile(folder / "last.safetensors", partial)
        (folder / WRITTEN).write_text(_digest(partial), encoding="ascii")
        os.replace(partial, output)
        print(f"{output}: {trainer.epoch} epochs" + ("" if done else f" of {config.train.epochs}: run it again to go on"))
    return done


def train(args: argparse.Namespace) -> None:
    """Train as the configuration says (`[train] teacher`), then write the averaged network."""
    config = configuration.load(args.config)
    if not args.output:
        checkpoint.expect_own(config, args.command)
    output = output_file(Path(args.output) if args.output else own_output(config, Path(args.runs) / config.name))
    set_threads(args.threads)
    if args.stop_after is not None and args.stop_after < 1:
        raise ValueError(f"--stop-after must be at least 1, not {args.stop_after}")
    settings = config.train
    if args.command == "distill" and not (args.teacher or settings.teacher):
        raise ValueError(f"{args.config}: no teacher: name one with --teacher, or set [train] teacher")
    given = getattr(args, "teacher", None)
    teacher = Path(given) if given else None
    if not given and settings.teacher not in ("", PRETRAIN):
        teacher = config.beside("train", "teacher", settings.teacher)
    if (given or settings.teacher) == PRETRAIN:
        teacher = output.with_suffix(".teacher.safetensors")
        first = dataclasses.replace(config, name=f"{config.name}.teacher", masking=UNMASKED,
                                    train=dataclasses.replace(settings, teacher=""))
        if not _run(args, first, teacher, None):
            return
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the first process writes the teacher, all read it
    if teacher is not None and teacher.resolve() == output.resolve():
        raise ValueError(f"{output}: is the teacher: name another file with --output")
    _run(args, config, output, teacher)


def test(args: argparse.Namespace, argv: list[str]) -> None:
    """Evaluate a trained network and print (and write) the JSON."""
    set_threads(args.threads)
    config = configuration.load(args.config)
    path = Path(args.checkpoint or checkpoint.of(config))
    model, info = checkpoint.load(path)
    checkpoint.expect(path, model, config.model)
    model.masking = config.masking  # of the network as it is to run, whatever it was trained with
    if args.output:
        output_file(Path(args.output))
    data = load_for(config, False, args.data)
    if data.class_names and list(data.class_names) != info.get("class_names", list(data.class_names)):
        odd = sorted(set(data.class_names) ^ set(info["class_names"]))
        raise ValueError(f"{path}: was trained on classes of other names ({', '.join(odd[:5])}): "
                         "give it the folder of its classes")
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
    text = json.dumps(result, indent=2, allow_nan=False)
    print(text)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
