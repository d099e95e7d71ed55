"""Pictures in folders, one folder a class: PNG, JPEG, BMP and WebP through Pillow, decoded one by one when asked for.

The rules, the same for training, tests and (for PNG) the host driver, `firmware/host/png.py`:
* 16-bit samples keep their high byte. A picture that is transparent anywhere or moves is refused, and one in colour by a
  network of one channel; gray is repeated for a network of three.
* The shorter edge is scaled to `edge` (bicubic), the longer one to floor(edge * longer / shorter); from the scaled picture
  the centre of side x side is cut, whose corner is half the excess, rounded to the even number where it lies between two.
  These are torchvision's Resize and CenterCrop. For ImageNet `edge` is side * 256 / 224, for one's own pictures the side itself.
* A picture of more than LARGEST pixels is refused by its header, before memory is taken for it.
"""
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.dataset import DataError, subfolders

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
OTHER_FILES = ("thumbs.db", "desktop.ini")
"""What file managers leave in folders; with names that start with a dot these are no pictures and passed over."""
LARGEST = 1 << 26
"""Pixels."""
NO_PILLOW = "Pillow is needed to decode pictures: `pip install -c requirements.lock pillow`, or make train"


def pillow() -> Any:
    """The module PIL.Image; DataError where Pillow is not installed."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise DataError(NO_PILLOW) from None
    return Image


def class_names(folder: Path, parts: tuple[str, str]) -> tuple[str, ...]:
    """Sorted names of the class folders in both `parts` (training, test) of `folder`, or in the one that is there.

    DataError where there is none, or a class is in one part only: its absence would move the labels of those behind it.
    """
    there = [part for part in parts if (folder / part).is_dir()]
    if not there:
        raise DataError(f"{folder}: holds neither {parts[0]} nor {parts[1]}: put the pictures into "
                        f"{parts[0]}/<class>/ and {parts[1]}/<class>/, and point to the folder with --data or MST_DATA")
    names = subfolders(folder / there[0])
    if len(there) == 2 and (others := subfolders(folder / there[1])) != names:
        odd = sorted(set(names) ^ set(others))[0]
        raise DataError(f"{folder}: class folder {odd} is not in both {parts[0]} and {parts[1]}: add it with its pictures, or "
                        "remove it")
    return tuple(names)


def _files(folder: Path) -> list[str]:
    """Names of the pictures in a class folder, sorted; DataError for any other file, and where there is none."""
    names = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name.lower() in OTHER_FILES:
            continue
        if entry.suffix.lower() not in SUFFIXES:
            raise DataError(f"{entry}: a class folder holds pictures only, with names in {', '.join(SUFFIXES)}: convert or "
                            "remove it")
        names.append(entry.name)
    if not names:
        raise DataError(f"{folder}: holds no picture: add some ({', '.join(SUFFIXES)}), or remove the class from all parts")
    return names


class PictureFolder:
    """One part, `folder/<class>/*`, decoded when asked for, so that it need not fit memory: a picture takes its name's bytes.

    `classes`: names of the class folders, in the order of the labels; `labels` int64 [N], in order of class and name.
    DataError where a class has no picture.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], enlarged: bool) -> None:
        """`enlarged`: scale to side * 256 / 224 and cut the centre, as for ImageNet; else scale to the side."""
        self.folder, self.classes, self.enlarged = folder, classes, enlarged
        names, counts = [], []
        for name in classes:
            if not (folder / name).is_dir():
                raise DataError(f"{folder / name}: no such class folder: add it with its pictures")
            found = _files(folder / name)
            names += [file.encode("utf-8", "surrogateescape") for file in found]
            counts.append(len(found))
        self.labels = np.repeat(np.arange(len(classes)), counts).astype(np.int64)
        # One array of bytes: workers share it, where a list of a million strings would be copied into each of them.
        self._ends = np.cumsum([len(name) for name in names])
        self._names = np.frombuffer(b"".join(names), np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Hex SHA-256 of the names of classes and files: another one stands for other pictures (their bytes are not read)."""
        found = hashlib.sha256(repr((self.classes, self._ends.tolist())).encode("utf-8", "surrogateescape"))
        found.update(self._names.tobytes())
        return found.hexdigest()

    def path(self, index: int) -> Path:
        """File of picture `index`."""
        start = int(self._ends[index - 1]) if index else 0
        name = self._names[start:int(self._ends[index])].tobytes().decode("utf-8", "surrogateescape")
        return self.folder / self.classes[int(self.labels[index])] / name

    def image(self, index: int, side: int, channels: int = 3) -> NDArray[np.uint8]:
        """Picture uint8 [channels, side, side], RGB or gray, fitted by the rules above; DataError names a bad one."""
        picture = read_picture(self.path(index), channels)
        return fitted_picture(picture, side, side * 256 // 224 if self.enlarged else side)

    def images(self, indices: NDArray[np.int64], side: int, channels: int = 3) -> NDArray[np.uint8]:
        """Pictures uint8 [n, channels, side, side] at `indices` int64 [n]."""
        out = np.empty((len(indices), channels, side, side), np.uint8)
        for place, index in enumerate(indices):
            out[place] = self.image(int(index), side, channels)
        return out


def read_picture(path: Path, channels: int) -> "Picture":
    """The picture in mode RGB (3 channels) or L (1), 8 bits a sample; DataError where it cannot be had by the rules above."""
    image = pillow()
    try:
        with image.open(path) as opened:
            width, height = opened.size
            if width * height > LARGEST:
                raise DataError(f"{path}: {width}x{height} pixels, more than {LARGEST}: scale it down")
            if getattr(opened, "is_animated", False):
                raise DataError(f"{path}: is animated: save one picture of it")
            opened.load()
            plain = _plain(opened, path)
            if channels == 1 and plain.mode != "L" and _coloured(plain):
                raise DataError(f"{path}: is in colour, the network takes gray: convert it, or set [model] in_channels = 3")
            return plain.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, EOFError, image.DecompressionBombError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a whole image ({' '.join(str(error).split())}): copy it again, or remove it") from None


def _coloured(picture: "Picture") -> bool:
    pixels = np.asarray(picture.convert("RGB"))
    return bool((pixels != pixels[..., :1]).any())


def _plain(picture: "Picture", path: Path) -> "Picture":
    """The picture with 8 bits a sample and without an alpha channel."""
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit gray is I;16, in older versions I
        values = np.asarray(picture)
        if picture.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
            raise DataError(f"{path}: samples of 32 bits: save it with 8 or 16")
        if "transparency" in picture.info:
            raise DataError(f"{path}: names a transparent colour: save it without one")
        return pillow().fromarray((values >> 8).astype(np.uint8))  # type: ignore[no-any-return]
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:
            raise DataError(f"{path}: is transparent in places: save it without an alpha channel")
        return picture.convert("RGBA").convert("RGB")
    return picture


def fitted_picture(picture: "Picture", side: int, edge: int) -> NDArray[np.uint8]:
    """uint8 [C, side, side]: the shorter edge scaled to `edge`, at least `side`, and the centre cut; see the rules above."""
    width, height = picture.size
    short = min(width, height)
    size = edge * width // short, edge * height // short
    left, top = (round((length - side) / 2) for length in size)
    if size != picture.size:
        picture = picture.resize(size, pillow().Resampling.BICUBIC)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.uint8)
    return pixels.reshape(side, side, -1).transpose(2, 0, 1)
