"""Pictures in folders: classes, labels, what is refused, and the rule that fits them."""
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from model import datasets, pictures
from model.__main__ import main
from model.config import load
from model.dataset import DataError, Representation
from model.image_sets import FOLDER, IMAGENET
from model.pictures import fitted_picture, read_picture

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: make train")


def picture(path: Path, values: np.ndarray | int = 90, size: tuple[int, int] = (8, 8)) -> Path:
    """A PNG (or what the suffix says) of `values`, or of one value in RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(values, int):
        values = np.full((size[1], size[0], 3), values, np.uint8)
    Image.fromarray(values).save(path)
    return path


def two_classes(root: Path, parts: tuple[str, str] = ("train", "test")) -> Path:
    for part in parts:
        for value, name in ((60, "ape"), (200, "bee")):
            for number in range(2):
                picture(root / part / name / f"{number}.png", value + number)
    return root


def test_formats_and_labels_of_ones_own_folder(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for suffix in ("bmp", "webp", "jpeg", "JPG"):
        picture(tmp_path / "train" / "bee" / f"x.{suffix}", 230)
    (tmp_path / "train" / "bee" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "train" / "bee" / ".DS_Store").write_bytes(b"x")
    images, labels = datasets.read("folder", True, tmp_path, Representation(8))
    assert labels.tolist() == [0, 0, 1, 1, 1, 1, 1, 1] and FOLDER.classes(tmp_path) == ("ape", "bee")
    assert images[:4, :, 3, 3].tolist() == [[60] * 3, [61] * 3, [200] * 3, [201] * 3], "of the network's size: as they are"
    assert (abs(images[4:].astype(int) - 230) < 4).all()
    gray = datasets.read("folder", False, tmp_path, Representation(4, colours=1))[0]
    assert gray.shape == (4, 1, 4, 4) and gray[2].tolist() == [[[200] * 4] * 4]


@pytest.mark.parametrize("name, parts", [("folder", ("train", "test")), ("imagenet", ("train", "val"))])
def test_a_class_missing_in_one_part_is_refused_by_every_reader(tmp_path: Path, name: str, parts: tuple[str, str]) -> None:
    """Else the labels behind it move."""
    root = tmp_path / "imagenet" if name == "imagenet" else tmp_path
    two_classes(root, parts)
    for file in (root / parts[1] / "ape").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="ape: holds no picture: add some"):
        datasets.read(name, False, tmp_path, Representation(8))
    (root / parts[1] / "ape").rmdir()
    for train in (True, False):
        with pytest.raises(DataError, match=f"class folder ape is not in both {parts[0]} and {parts[1]}"):
            datasets.read(name, train, tmp_path, Representation(8))


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "test" / "bee" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes\.txt: a class folder holds pictures only"):
        datasets.read("folder", False, tmp_path, Representation(8))
    (tmp_path / "test" / "bee" / "notes.txt").rename(tmp_path / "test" / "bee" / "bad.png")
    with pytest.raises(DataError, match=r"bad\.png: not a whole image"):
        datasets.read("folder", False, tmp_path, Representation(8))
    with pytest.raises(DataError, match="train: no such folder: unpack train/<class>"):
        datasets.read("folder", False, tmp_path / "test", Representation(8))


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    path = picture(tmp_path / "a.png", values)
    found = np.asarray(read_picture(path, 1))
    assert np.array_equal(found, (values >> 8).astype(np.uint8)) and found.max() == 255 and found.min() == 0
    assert np.array_equal(np.asarray(read_picture(path, 3)), found[..., None].repeat(3, 2))


def test_transparent_moving_coloured_and_deep_pictures_are_refused(tmp_path: Path) -> None:
    clear = np.full((4, 4, 4), 255, np.uint8)
    assert np.asarray(read_picture(picture(tmp_path / "opaque.png", clear), 3)).tolist() == [[[255] * 3] * 4] * 4
    clear[1, 2, 3] = 254
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:])
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert read_picture(tmp_path / "palette.png", 1).getextrema() == (9, 9), "the transparent entry is not used"
    palette.save(tmp_path / "clear_palette.png", transparency=1)
    for path, channels, message in (
            (picture(tmp_path / "clear.png", clear), 3, "is transparent in places"),
            (tmp_path / "clear_palette.png", 3, "is transparent in places"),
            (tmp_path / "moves.webp", 3, "is animated"),
            (picture(tmp_path / "red.png", np.full((2, 2, 3), [9, 0, 0], np.uint8)), 1, "is in colour, the network takes gray")):
        with pytest.raises(DataError, match=f"{path.name}: {message}"):
            read_picture(path, channels)


def test_a_large_picture_is_refused_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that says 60,000 x 60,000 and no picture behind it."""
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"")
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.png: (60000x60000 pixels, more than|not a whole image .*exceeds limit)"):
        read_picture(tmp_path / "bomb.png", 3)
    monkeypatch.setattr(pictures, "LARGEST", 63)
    with pytest.raises(DataError, match=r"a\.png: 8x8 pixels, more than 63: scale it down"):
        read_picture(picture(tmp_path / "a.png"), 3)


@pytest.mark.parametrize("width, height, left, top", [
    (500, 334, 80, 16), (334, 500, 16, 80), (500, 375, 58, 16), (300, 200, 80, 16), (256, 256, 16, 16), (1000, 256, 388, 16)])
def test_the_centre_is_cut_where_the_rule_says(monkeypatch: pytest.MonkeyPatch, width: int, height: int, left: int,
                                               top: int) -> None:
    """500x334 -> 383x256, (383 - 224) / 2 = 79.5, to the even one: 80."""
    seen = []
    crop = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda self, box: seen.append((self.size, box)) or crop(self, box))
    found = fitted_picture(Image.new("RGB", (width, height)), 224, 256)
    scaled = (int(256 * width / min(width, height)), int(256 * height / min(width, height)))
    assert seen == [(scaled, (left, top, left + 224, top + 224))] and found.shape == (3, 224, 224)


def test_names_of_a_part_are_kept_in_one_array(tmp_path: Path) -> None:
    two_classes(tmp_path)
    picture(tmp_path / "train" / "ape" / "größe.png", 77)
    part = FOLDER.part(tmp_path, True)
    assert [part.path(index).name for index in range(len(part))] == ["0.png", "1.png", "größe.png", "0.png", "1.png"]
    assert part.path(3).parent.name == "bee" and part.image(2, 8)[0, 0, 0] == 77
    assert IMAGENET.enlarged and not FOLDER.enlarged


def test_the_data_command_reads_ones_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_classes(tmp_path)
    assert main(["data", "--dataset", "folder", "--root", str(tmp_path)]) == 0
    assert "4 images, all decoded; labels int64 [4], 2 classes of 2 to 2" in capsys.readouterr().out


def test_the_classes_must_be_the_networks(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "c.toml").write_text("[model]\nimage_size = 8\nin_channels = 2\nclasses = 3\npatch = 2\n"
                                     "embedding = 8\ndepths = [1]\nheads = [2]\nwindow = 4\n"
                                     "mlp_ratio = 1.0\nlevels = 3\n[train]\ndataset = \"folder\"\n")
    with pytest.raises(DataError, match=r"train: has 2 class folders, but \[model\] classes is 3: set it to 2"):
        datasets.read_for(load(tmp_path / "c.toml"), True, tmp_path)
    (tmp_path / "c.toml").write_text((tmp_path / "c.toml").read_text().replace("classes = 3", "classes = 2"))
    with pytest.raises(DataError, match=r"\[model\] in_channels is 2: set it to 1 or 3"):
        datasets.read_for(load(tmp_path / "c.toml"), True, tmp_path)
