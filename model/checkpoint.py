"""Checkpoints: a trained network, or the whole state of a training run, as one safetensors file.

A network file holds the float32 tensors of its `state_dict()` and, in its metadata, format, version, configuration
(JSON) and results. A run's state also holds the optimiser's, the average's and the random generators' state.
Written through a temporary name, so that an interrupted write leaves the old file. No pickle.
"""
import dataclasses
import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_bytes
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from model.config import AnyModel, Config, MaskingConfig, described, read_masking, read_model
from model.factory import network
from model.spiking import SpikingNetwork
from model.values import impossible

FORMAT = "mst-checkpoint"
STATE_FORMAT = "mst-training-state"
VERSION = 1


class CheckpointError(ValueError):
    """A file that is not a usable checkpoint; the message is one line and names the file."""


def of(config: Config) -> Path:
    """The checkpoint of a configuration's network: beside the network file."""
    return config.network.with_suffix(".safetensors")


def expect_own(config: Config, verb: str) -> None:
    """ValueError where the network of `config` is another configuration's, whose files it must not overwrite.

    `verb`: what was to be done with it (train, export).
    """
    other = config.network.with_suffix(".toml")
    if config.network.stem != config.name and other.is_file():
        raise ValueError(f"{config.name}: its network, {config.network}, is that of {other}: {verb} that one, or name a new "
                         "file with --output")


def write(path: str | Path, tensors: dict[str, Tensor], kind: str, info: dict[str, Any]) -> None:
    """Write `tensors` with metadata {format, version, info as JSON} to `path`, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    metadata = {"format": kind, "version": str(VERSION), "info": json.dumps(info, sort_keys=True)}
    content = save_bytes({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata)
    with partial.open("wb") as file:  # safetensors' save_file makes it private to its owner, whatever the umask
        header = _header(content)
        file.write(header)
        file.write(memoryview(content)[len(header):])
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _header(content: bytes) -> bytes:
    """A file's header, its metadata in order of their keys: safetensors writes them in another one each time."""
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    return content[:8] + (text if len(text) == size else content[8:8 + size])


def read(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and info of a file written by `write`; CheckpointError if missing, truncated, foreign or too new."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train one with `python -m model train`, or let the configuration say "
                              "whose it takes: network = \"OTHER.mstn\"")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                raise CheckpointError(f"{path}: format is {metadata.get('format')!r}, expected {kind!r}")
            if metadata.get("version") != str(VERSION):
                raise CheckpointError(
                    f"{path}: version {metadata.get('version')!r}, this code reads {VERSION}: train again")
            info = json.loads(metadata["info"])
            if not isinstance(info, dict):
                raise ValueError(f"info is a {type(info).__name__}")
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: truncated or not a safetensors file ({said or type(error).__name__})") from None


def optimiser_tensors(optimiser: Optimizer, prefix: str = "optimiser") -> dict[str, Tensor]:
    """The state of `optimiser` as tensors for `write`, named "<prefix>.<parameter>.<name>"."""
    return {f"{prefix}.{index}.{name}": value for index, entry in optimiser.state_dict()["state"].items()
            for name, value in entry.items()}


def restore_optimiser(optimiser: Optimizer, tensors: dict[str, Tensor], prefix: str = "optimiser") -> None:
    """Put back what `optimiser_tensors` gave; other names are left alone."""
    state = optimiser.state_dict()
    for key, value in tensors.items():
        if key.startswith(f"{prefix}."):
            _, index, name = key.split(".")
            state["state"].setdefault(int(index), {})[name] = value
    optimiser.load_state_dict(state)


def describe(model: SpikingNetwork) -> dict[str, Any]:
    """Configuration of `model` as JSON-ready data."""
    return {"model": described(model.config), "masking": dataclasses.asdict(model.masking)}


def save(path: str | Path, model: SpikingNetwork, info: dict[str, Any]) -> None:
    """Write the network of `model`; `info` (accuracy, epoch, command, ...) is added to its configuration."""
    write(path, {name: tensor.float() if tensor.is_floating_point() else tensor
                 for name, tensor in model.state_dict().items()}, FORMAT, {**describe(model), **info})


class _WithoutWeights(TorchFunctionMode):
    """Layers made inside have weights that are a shape only: on the meta device, and not filled.

    (As `with torch.device("meta")`, but tables of positions, which are bounded, stay real: on meta they take torch 2 s.)
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.normal_:
            return args[0]
        return func(*args, **{**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})})


def _compare(shape: AnyModel, masking: MaskingConfig, tensors: dict[str, Tensor]) -> None:
    """ValueError unless the network of `shape` has these tensors: told without taking memory for a network that a file of a few
    bytes describes."""
    blocks = sum(shape.depths)
    if blocks > len(tensors):
        raise ValueError(f"{blocks} blocks, but {len(tensors)} tensors")
    with _WithoutWeights():
        wanted = {name: tensor.shape for name, tensor in network(shape, masking).state_dict().items()}
    for name in wanted.keys() | tensors.keys():
        found = None if name not in tensors else list(tensors[name].shape)
        needed = None if name not in wanted else list(wanted[name])
        if found != needed:
            raise ValueError(f"{name} has shape {found}, the network needs {needed}")


def load(path: str | Path) -> tuple[SpikingNetwork, dict[str, Any]]:
    """Network (evaluation mode, float32) and info of a checkpoint; CheckpointError where it cannot be used."""
    tensors, info = read(path, FORMAT)
    try:
        shape, masking = read_model(info["model"]), read_masking(info["masking"])
        _compare(shape, masking, tensors)
        if wrong := impossible(tensors):
            raise ValueError(f"{wrong}: train it again, or take another checkpoint")
        model = network(shape, masking)
        model.load_state_dict(tensors)
    except (ValueError, KeyError, RuntimeError, TypeError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not hold the network it describes: {text[:200]}") from None
    return model.eval(), info


def expect(path: str | Path, model: SpikingNetwork, config: AnyModel) -> None:
    """CheckpointError unless the network from `path` has the shape `config`."""
    for key, value in dataclasses.asdict(config).items():
        found = getattr(model.config, key, None)
        if found != value:
            raise CheckpointError(f"{path}: trained with {key} = {found}, the configuration says {value}: train again")
