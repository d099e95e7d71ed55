"""Import of the authors' checkpoints, and the safetensors file that an import writes."""
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model import checkpoint
from model.reference.network import Reference, from_state_dict
from model.reference.pickled import CheckpointFile, TensorRef, UnpickleError, plain
from model.reference.shape import ReferenceModelError, as_dict, guess_image_size, without_prefix

FORMAT = "mst-reference"
REMEDY = "import one with `python -m model import FILE.pth -o OUT.safetensors`"


def _tensor(file: CheckpointFile, ref: TensorRef) -> Tensor:
    values = torch.from_numpy(file.values(ref))
    return values.view(torch.bfloat16) if ref.storage.dtype == "bfloat16" else values


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict (`model`) and what else is readable (config as plain data, epoch, max_accuracy) of a torch checkpoint.

    Nothing of the file is run (see `pickled`). ReferenceModelError: one line with the path, what is wrong and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise ReferenceModelError(f"{path}: no such file: give the .pth file of the authors' code")
    try:
        with CheckpointFile(path) as file:
            return _parts(file)
    except UnpickleError as error:
        raise ReferenceModelError(f"{path}: {error}") from None
    except OSError as error:
        raise ReferenceModelError(f"{path}: cannot be read ({error.strerror})") from None


def _parts(file: CheckpointFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = file.content
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = ", ".join(str(key)[:40] for key in list(content)[:5]) if isinstance(content, dict) else type(content).__name__
        raise UnpickleError(f"holds no dict `model` (found: {found or 'nothing'}): "
                            "give a checkpoint of the authors' code, or save the "
                            'weights as {"model": state_dict}')
    state = {}
    size = sum(ref.bytes + ref.storage.bytes for ref in content["model"].values() if isinstance(ref, TensorRef))
    if size > 4 * file.size + 4096:
        raise UnpickleError(f"its tensors take {size} bytes, of a file of {file.size}: it holds some of them many times; "
                            "save model.state_dict() as `model`")
    for key, ref in content["model"].items():
        if not isinstance(key, str) or not isinstance(ref, TensorRef):
            raise UnpickleError(f"its model holds {str(key)[:60]!r}, a {type(ref).__name__}, not a tensor: "
                                "save model.state_dict() as `model`")
        state[key] = _tensor(file, ref)
    info: dict[str, Any] = {"config": plain(content.get("config"))}
    for key in ("epoch", "max_accuracy"):
        if isinstance(content.get(key), int | float):
            info[key] = content[key]
    return state, info


def _image_size(info: dict[str, Any], state: dict[str, Tensor]) -> int:
    """The size that the checkpoint itself names: its region masks', else its configuration's."""
    masks = guess_image_size(state)
    if masks is not None:
        return masks
    data = info["config"].get("DATA") if isinstance(info["config"], dict) else None
    size = data.get("IMG_SIZE") if isinstance(data, dict) else None
    if type(size) is not int:
        raise ReferenceModelError("neither its config (DATA.IMG_SIZE) nor a region mask names the image size: "
                                  "give it with --image-size")
    return size


def settings(info: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint's configuration says of the network beside its tensors: `qk_scale`, `mask_ratio`, `levels`.

    MODEL.MST.QK_SCALE (None and 0 both mean head^-1/2, as in the authors' code), MODEL.MST.MASKING_RATIO, and `t`, the L of
    QCFS, wherever between the top and MODEL.MST it stands. Only what is there. ReferenceModelError for values that cannot be.
    """
    tables = [info["config"] if isinstance(info["config"], dict) else {}]
    for key in ("MODEL", "MST"):
        found = tables[-1].get(key)
        tables.append(found if isinstance(found, dict) else {})

    def number(key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ReferenceModelError(f"its config has {key} = {value!r}, not a number: repair it, or save only the model")
        return value

    result: dict[str, Any] = {}
    scale = tables[-1].get("QK_SCALE")
    if scale is not None and number("MODEL.MST.QK_SCALE", scale):
        result["qk_scale"] = float(scale)
    if "MASKING_RATIO" in tables[-1]:
        result["mask_ratio"] = float(number("MODEL.MST.MASKING_RATIO", tables[-1]["MASKING_RATIO"]))
        if not 0 <= result["mask_ratio"] < 1:
            raise ReferenceModelError(f"its config has MODEL.MST.MASKING_RATIO = {result['mask_ratio']:g}, not in [0, 1)")
    steps = next((table[key] for table in reversed(tables) for key in ("t", "T") if key in table), None)
    if steps is not None:
        if number("t", steps) != int(steps) or not 1 <= steps <= 1 << 16:
            raise ReferenceModelError(f"its config has t = {steps!r}, the levels of QCFS: not a whole number from 1 to 65536")
        result["levels"] = int(steps)
    return result


def import_checkpoint(path: str | Path, image_size: int | None = None) -> tuple[Reference, dict[str, Any]]:
    """Network and info of a checkpoint of the authors' code; `image_size` where the file does not name it.

    The network has the L and the factor of the scores that the checkpoint's configuration names (`settings`).
    Info: source (file name, SHA-256), config, mask_ratio (None where the configuration has none), and epoch and
    max_accuracy where they are numbers.
    """
    path = Path(path)
    state, info = read_checkpoint(path)
    try:
        state = without_prefix(state)
        found = settings(info)
        info["mask_ratio"] = found.pop("mask_ratio", None)
        model = from_state_dict(state, _image_size(info, state) if image_size is None else image_size, **found)
    except ReferenceModelError as error:
        raise ReferenceModelError(f"{path}: {error}") from None
    with path.open("rb") as file:
        info["source"] = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return model, info


def save(path: str | Path, model: Reference, info: dict[str, Any]) -> None:
    """Write the network's tensors, its shape and `info` as safetensors, whole or not at all."""
    checkpoint.write(path, model.state_dict(), FORMAT, {**info, "shape": as_dict(model.shape), "levels": model.levels,
                                                          "qk_scale": model.qk_scale})


def load(path: str | Path, mask_ratio: float | None = 0.0, always_draw: bool = False) -> Reference:
    """The network of a file that `python -m model import` wrote. ReferenceModelError where it cannot be used.

    `mask_ratio` None: the one that the checkpoint was trained with, as its configuration says, else 0.
    """
    path = Path(path)
    if not path.is_file():
        raise ReferenceModelError(f"{path}: no such file: {REMEDY}")
    try:
        tensors, info = checkpoint.read(path, FORMAT)
    except checkpoint.CheckpointError as error:
        raise ReferenceModelError(f"{error}: {REMEDY}") from None
    try:
        shape = info["shape"]
        ratio = (info.get("mask_ratio") or 0.0) if mask_ratio is None else mask_ratio
        return from_state_dict(tensors, shape["image_size"], shape["classes"], levels=info["levels"], mask_ratio=ratio,
                               qk_scale=info.get("qk_scale"), always_draw=always_draw)
    except (KeyError, TypeError, RuntimeError, ReferenceModelError) as error:
        said = " ".join(str(error).split())[:200]
        raise ReferenceModelError(f"{path}: does not hold the network it describes: {said}") from None


def is_reference(path: str | Path) -> bool:
    """Whether `path` is a file of `save` (false where it is anything else, or nothing)."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def unmappable(model: Reference) -> list[str]:
    """What of `model` has no place in the integer network and on the machine (docs/semantics.md), each as one phrase."""
    planes = model.levels.bit_length()
    found = []
    if model.levels != 2**planes - 1:
        found.append(f"L = {model.levels} levels are not 2^b - 1 of b bit planes (retrain with levels = {2 ** (planes - 1) - 1})")
    found.append("`norm` is a LayerNorm: it divides by each token's own deviation, which no fixed threshold absorbs "
                 "(retrain with a BatchNorm before the head)")
    return found + options(model)


def options(model: Reference) -> list[str]:
    """Options of the authors' network that `model` uses and no network of ours has, each as one phrase."""
    found = []
    if model.shape.position:
        found.append("`absolute_pos_embed` (MODEL.MST.APE) adds a value of its own to each token, which no layer of ours does "
                     "(retrain with APE = False)")
    if not model.shape.patch_norm:
        found.append("`patch_embed` has no BatchNorm (MODEL.MST.PATCH_NORM = False), and ours has one "
                     "(retrain with PATCH_NORM = True)")
    return found
