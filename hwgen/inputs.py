"""What a command line names, read: configuration, machine and network. Shared by the commands that compile."""
import argparse
from pathlib import Path

from hwgen.config import MachineConfig, machine_config
from model import config as configuration
from model.command_line import command_line
from model.config import Config, ConfigError
from quantize import network as network_file
from quantize.check import has_integer_form
from quantize.layers import Network, NetworkError
from quantize.random_network import TRAINED, random_network

__all__ = ["ConfigError", "command_line", "machine_of", "network_arguments", "network_name", "network_of", "read_inputs"]


def network_arguments(command: argparse.ArgumentParser, *, config: str = "") -> None:
    """Adds --config, --network, --random-weights and --trained-activity; `config`: its default, in words ("": none)."""
    command.add_argument("--config", required=not config, type=Path,
                         help=f"default: {config}" if config else "such as configs/cifar10-tiny.toml")
    command.add_argument("--network", type=Path, help="network file (default: the configuration's)")
    command.add_argument("--random-weights", type=int, metavar="SEED", help="an untrained network instead of a trained one")
    command.add_argument("--trained-activity", action="store_true", help="random weights that fire as trained ones do")


def read_inputs(args: argparse.Namespace) -> tuple[Config, MachineConfig, Network]:
    """The configuration, its machine and the network; ConfigError or NetworkError names what is wrong."""
    config = configuration.load(args.config)
    return config, machine_of(config), network_of(config, args)


def machine_of(config: Config) -> MachineConfig:
    """The machine of `config`; a ConfigError names its file, as those of other tables do."""
    try:
        return machine_config(config.machine)
    except ConfigError as error:
        raise ConfigError(f"{config.file}: {error}" if config.file else str(error)) from None


def network_of(config: Config, args: argparse.Namespace) -> Network:
    """The network that the arguments name: random, given, or the configuration's; it must have the configuration's shape."""
    has_integer_form(config.model)
    if args.trained_activity and args.random_weights is None:
        raise ConfigError("--trained-activity goes with --random-weights SEED: a network file's weights fire as they do")
    if args.random_weights is not None:
        return random_network(config.model, args.random_weights, config.quantize, TRAINED if args.trained_activity else None)
    file = args.network or config.network
    if args.network is None and not file.exists():
        raise NetworkError(f"{file}: no such network file; make it with `make quantize CONFIG={args.config}`, "
                           "let the configuration say whose it takes (network = \"OTHER.mstn\" as its first line), or take "
                           "--random-weights SEED")
    network = network_file.load(file)
    if network.model != config.model:
        raise NetworkError(f"{file}: its model differs from [model] of {args.config}: run make quantize CONFIG={args.config}, "
                           "or give another --network")
    return network


def network_name(config: Config, args: argparse.Namespace) -> str:
    """What to call the network of `network_of`."""
    if args.random_weights is not None:
        return f"random weights {args.random_weights}"
    return (args.network or config.network).stem
