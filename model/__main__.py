"""Command line: `python -m model train | distill | evaluate | data | import | reference | adopt`."""
import argparse
import sys

from model import data_command
from model.command_line import command_line, seed_number


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--config", required=True, help="configuration file, such as configs/cifar10-tiny.toml")
    both.add_argument("--data", help="folder that holds the data sets (default: $MST_DATA, or data)")
    both.add_argument("--threads", type=int, default=2,
                      help="CPU threads (default: 2; training: 1, and torchrun for more cores, whose results are the same)")
    both.add_argument("--output", help="file to write (train: default beside the configuration; evaluate: none)")
    both.add_argument("--no-compile", action="store_true", help="do not compile the network: slower, quick start")
    learning = argparse.ArgumentParser(add_help=False)
    learning.add_argument("--runs", default="runs", help="folder of training states and TensorBoard logs (default: runs)")
    learning.add_argument("--restart", action="store_true", help="forget the saved state of this run")
    learning.add_argument("--float32", action="store_true", help="compute in float32, whatever [train] precision says")
    learning.add_argument("--stop-after", type=int, metavar="N", help="stop after N more epochs; the next run goes on")
    learning.add_argument("--workers", type=int, default=2,
                          help="processes that decode pictures in folders that do not fit memory (default: 2)")
    learning.add_argument("--memory", type=float, default=2.0, metavar="GIB",
                          help="pictures in folders that are larger than this when decoded are read in a stream (default: 2)")
    training = commands.add_parser("train", parents=[both, learning],
                                   help="train the network of a configuration; resumes where it stopped")
    distilling = commands.add_parser("distill", parents=[both, learning],
                                     help="train it, masked, as the student of an unmasked teacher; resumes where it stopped")
    for command in (training, distilling):
        command.set_defaults(threads=1)
    distilling.add_argument("--teacher", help="the teacher's checkpoint, or 'pretrain' (default: [train] teacher)")
    testing = commands.add_parser("evaluate", parents=[both], help="accuracy on the test images, as JSON")
    testing.add_argument("--checkpoint", help="trained network (default: beside the configuration)")
    testing.add_argument("--modes", default="qcfs,exact,stepwise", help="comma-separated (default: all)")
    testing.add_argument("--steps", default="4,8,16,32,64", help="time steps at which stepwise is read out")
    testing.add_argument("--images", type=int, default=0, help="test images from the first on (default: all)")
    data_command.add_parser(commands)
    _add_reference(commands)
    return top


def _add_reference(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands for the authors' network (docs/reference.md)."""
    taking = commands.add_parser("import", help="checkpoint of the authors' code -> safetensors; nothing of the file is run")
    taking.add_argument("file", metavar="FILE.pth", help="checkpoint: a dict with model and config")
    taking.add_argument("-o", "--output", required=True, metavar="OUT.safetensors", help="file to write")
    taking.add_argument("--image-size", type=int, help="side of the images, pixels (default: what the checkpoint says)")
    showing = commands.add_parser("reference", help="an imported network: its shape and, with --dataset, its accuracy, as JSON")
    showing.add_argument("file", metavar="OUT.safetensors", help="file that import wrote")
    showing.add_argument("--dataset", help="cifar10, cifar100, fashion_mnist or imagenet: its test images, "
                                           "resized to the network's size")
    showing.add_argument("--data", help="folder that holds the data sets (default: $MST_DATA, or data)")
    showing.add_argument("--images", type=int, default=100,
                         help="test images, the first ones; of ImageNet evenly spread ones (default: 100)")
    showing.add_argument("--batch", type=int, default=10, help="images at a time (default: 10)")
    showing.add_argument("--steps", default="4,16,64", help="time steps at which stepwise is read out (default: 4,16,64)")
    showing.add_argument("--mask-ratio", type=float, help="share of q, k and score spikes masked (default: what the "
                                                          "checkpoint was trained with, as its configuration says, else 0)")
    showing.add_argument("--always-draw", action="store_true",
                         help="draw masks at ratio 0 too, as the published code does: it loses one spike in 2^24")
    showing.add_argument("--seed", type=seed_number, default=0, help="seed of the masks (default: 0)")
    showing.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    going_on = commands.add_parser("adopt", help="an imported network as one of ours: weights, and a configuration to train on "
                                                 "from them, to integers and RTL")
    going_on.add_argument("file", metavar="OUT.safetensors", help="file that import wrote")
    going_on.add_argument("-o", "--output", required=True, metavar="OWN.toml",
                          help="configuration to write; the weights go beside it, as OWN.start.safetensors")
    going_on.add_argument("--dataset", required=True, help="data set that the network was trained on, such as cifar10")
    going_on.add_argument("--levels", type=int, default=15, help="L, 2^b - 1 (default: 15, the nearest to their 16)")


@command_line()
def main(argv: list[str] | None = None) -> int:
    """Run one command; errors of configuration, data and checkpoints are one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(argv)
    if args.command == "data":
        data_command.run(args)
        return 0
    from model import commands  # needs torch, data does not
    try:
        if args.command in ("import", "reference", "adopt"):
            from model.reference import commands as reference
            run = {"import": reference.run_import, "reference": reference.run_reference, "adopt": reference.run_adopt}
            run[args.command](args)
        elif args.command == "evaluate":
            commands.test(args, argv)
        else:
            commands.train(args)
    finally:
        commands.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
