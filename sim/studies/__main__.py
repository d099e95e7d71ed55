"""Command line: `python -m sim.studies NAME --config C`: a study of the paper, as CSV, Markdown and SVG. Errors: exit code 2."""
import argparse
import importlib
import sys
from pathlib import Path

from model.command_line import command_line
from sim.studies.setting import open_setting
from sim.studies.table import Table

STUDIES = {
    "steps": "accuracy against T, `exact` and `stepwise` (needs torch)",
    "masking": "accuracy, cycles and energy against the masking ratio: attention only, MLPs only, both",
    "backbone": "a VGG or ResNet: accuracy in both firing modes, cycles and energy against the masking ratio (needs torch)",
    "sensitivity": "what masking one site of one block costs and saves",
    "search": "masking ratios of their own for each site, searched under an energy budget on held-out training images",
    "direct": "direct training against plain conversion: accuracy and SOPs at few steps, --trained FILES (needs torch)",
    "norm": "BatchNorm against LayerNorm in conversion: --config and --against (needs torch)",
    "rates": "firing rates of every layer",
    "attention": "attention maps of an image under several ratios, before and after conversion (needs torch)",
}
FOLDER = Path("runs") / "results"
"""Where tables go; those in docs/results were written with --output docs/results."""


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m sim.studies", description=__doc__)
    commands = top.add_subparsers(dest="study", required=True)
    for name, meaning in STUDIES.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("--config", required=True, type=Path, help="a trained network, such as configs/cifar10-tiny.toml")
        command.add_argument("--images", type=int, default=0, help="test images from the first on (default: all)")
        command.add_argument("--data", type=Path, help="folder of the data sets (default: MST_DATA, else data)")
        command.add_argument("--output", type=Path, default=FOLDER, help=f"folder to write to (default: {FOLDER})")
        if name == "norm":
            command.add_argument("--against", required=True, type=Path, help="the same network with LayerNorm")
        else:
            command.add_argument("--network", type=Path, help="network file (default: beside the configuration)")
            command.add_argument("--checkpoint", type=Path, help="float network (default: beside the configuration)")
            command.add_argument("--sample", action="store_true", help="the committed sample images instead of the data set")
        if name == "direct":
            command.add_argument("--trained", nargs="+", required=True, type=Path, help="checkpoints of `python -m model.direct`")
        if name == "search":
            command.add_argument("--held-out", type=int, default=1000, help="training images to search with (default: 1000)")
        if name == "attention":
            command.add_argument("--image", type=int, default=0, help="which test image (default: 0)")
    return top


def _written(table: Table, figure: str, folder: Path, stem: str) -> int:
    path = table.write(folder, stem, figure)
    print(f"{path}, {path.with_suffix('.csv').name}, {path.with_suffix('.svg').name}: {len(table.rows)} rows")
    return 0


@command_line()
def main(argv: list[str] | None = None) -> int:
    """Run one study."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)  # before the study, not behind it
    for file in getattr(args, "trained", []):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such checkpoint; make it with `python -m model.direct`")
    if args.study == "norm":
        from sim.studies import norm
        table, figure, name = norm.study(args.config, args.against, args.images, args.data,
                                         f"python -m sim.studies {' '.join(argv)}")
        return _written(table, figure, args.output, f"{name}-norm")
    setting = open_setting(args.config, images=args.images, sample=args.sample, data=args.data, network=args.network,
                           checkpoint=args.checkpoint, command=f"python -m sim.studies {' '.join(argv)}")
    if args.study == "attention" and not 0 <= args.image < len(setting.images):
        raise ValueError(f"--image must be 0 to {len(setting.images) - 1}, not {args.image}")
    module = importlib.import_module(f"sim.studies.{args.study}")
    more = [args.image] if args.study == "attention" else [module.held_out(setting, args.held_out, args.data)] \
        if args.study == "search" else [args.trained] if args.study == "direct" else []
    table, figure = module.study(setting, *more)
    return _written(table, figure, args.output, f"{setting.config.name}-{args.study}")


if __name__ == "__main__":
    sys.exit(main())
