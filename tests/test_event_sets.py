"""Frames of events, the layouts of the event sets, and `python -m model data`."""
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model import config, datasets, event_sets
from model.__main__ import main
from model.config import ConfigError, EventsConfig
from model.dataset import DataError, Representation
from model.event_files import EVENT
from model.frames import frame_of, frames

_spec = importlib.util.spec_from_file_location("event_file_tests", Path(__file__).with_name("test_event_files.py"))
assert _spec is not None and _spec.loader is not None
_writers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_writers)
aedat, atis, dat = _writers.aedat, _writers.atis, _writers.dat

ROOT = Path(__file__).resolve().parent.parent
SMALL = Path(os.environ.get("MST_DATA", "data")) / "nmnist_small"


def recording(*events: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(list(events), EVENT)


def naive(events: np.ndarray, sensor: tuple[int, int], view: Representation) -> np.ndarray:
    """Event by event, from the words of docs/datasets.md."""
    out = np.zeros((view.channels, view.side, view.side), np.int64)
    first, last, total = int(events["t"][0]), int(events["t"][-1]), len(events)
    for i, (t, x, y, p) in enumerate(events.tolist()):
        if x >= sensor[0] or y >= sensor[1]:
            continue
        frame = (t - first) * view.frames // (last - first + 1) if view.by == "time" else i * view.frames // total
        channel = 2 * frame + p if view.polarity == "split" else frame
        if view.fit == "scale":
            column, row = x * view.side // sensor[0], y * view.side // sensor[1]
        else:
            column, row = x - (sensor[0] - view.side) // 2, y - (sensor[1] - view.side) // 2
            if not (0 <= column < view.side and 0 <= row < view.side):
                continue
        out[channel, row, column] += 1
    return np.minimum(out, 2**view.bits - 1)


@pytest.mark.parametrize("by", ["time", "count"])
@pytest.mark.parametrize("polarity", ["split", "merged"])
@pytest.mark.parametrize(("fit", "side"), [("crop", 6), ("crop", 14), ("scale", 4)])
def test_frames_are_the_naive_count(by: str, polarity: str, fit: str, side: int) -> None:
    random = np.random.default_rng(3)
    events = np.empty(900, EVENT)
    events["t"] = np.sort(random.integers(5, 2000, 900) ** 2)
    for name, top in (("x", 13), ("y", 9), ("p", 2)):
        events[name] = random.integers(0, top, 900)
    for count in (1, 3, 7):
        view = Representation(side, 2, count, by, polarity, fit)
        found = frames(events, (12, 8), view)
        assert found.dtype == np.uint8 and found.max() == 3
        assert np.array_equal(found, naive(events, (12, 8), view))


def test_slices_by_hand() -> None:
    t = np.array([100, 100, 149, 150, 199], np.int64)
    assert frame_of(t, 2, "time").tolist() == [0, 0, 0, 1, 1]
    assert frame_of(t, 2, "count").tolist() == [0, 0, 0, 1, 1]
    assert frame_of(t, 5, "count").tolist() == [0, 1, 2, 3, 4]
    assert frame_of(np.array([7]), 3, "time").tolist() == [0]
    found = frames(recording((0, 1, 0, 0), (9, 1, 0, 1)), (2, 2), Representation(2, 8, 2))
    assert found.tolist() == [[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [0, 0]]]
    with pytest.raises(DataError, match="without events"):
        frames(recording(), (2, 2), Representation(2))


@pytest.mark.parametrize(("values", "message"), [
    ({"frames": 0}, r"\[events\] frames must be 1 to 65536, not 0"), ({"by": "events"}, "by must be time or count, not 'events'"),
    ({"polarity": "on"}, "polarity must be split or merged, not 'on'"), ({"fit": "pad"}, "fit must be crop or scale, not 'pad'"),
])
def test_bad_representations(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EventsConfig(**values)  # type: ignore[arg-type]


def test_channels_must_be_those_of_the_frames(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "nmnist-tiny.toml").read_text()
    path = tmp_path / "x.toml"
    path.write_text(text.replace("frames = 3", "frames = 2"))
    with pytest.raises(DataError, match=r"2 frames, polarity 'split' give 4 channels, but \[model\] in_channels is 6: set it"):
        datasets.representation(config.load(path))
    path.write_text(text.replace("in_bits = 3", "in_bits = 9"))
    with pytest.raises(ConfigError, match="in_bits must be 1 to 8, not 9"):
        config.load(path)


EVENTS = [(10, 3, 4, 1), (20, 5, 6, 0), (30, 7, 8, 1)]


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def layouts(root: Path) -> None:
    """A look-alike of each event set: in each class (and part) recordings of 1, 2, ... events."""
    for part, count in (("Train", 3), ("Test", 1)):
        for digit in range(10):
            for number in range(count):
                put(root / "N-MNIST" / part / str(digit) / f"{number + 1:05d}.bin", atis(EVENTS[:number + 1]))
    for number in range(1, 5):
        put(root / "nmnist_small" / f"{number}.bs2", atis(EVENTS[:1 + number % 3]))
    put(root / "nmnist_small" / "train1K.txt", b"#sample #class\n2\t7\n1\t3\n")
    put(root / "nmnist_small" / "test100.txt", b"#sample #class\n4\t9\n3\t0\n")
    for name in ("BACKGROUND_Google", "Faces_easy", "accordion"):
        for number in range(1, 12):
            put(root / "Caltech101" / name / f"image_{number:04d}.bin", atis(EVENTS))
    for part in ("n-cars_train", "n-cars_test"):
        for name in ("background", "cars"):
            put(root / "Prophesee_Dataset_n_cars" / part / name / "obj_000001_td.dat", dat(EVENTS))
    for name in datasets.known("cifar10").classes(root):
        for number in range(20):
            put(root / "CIFAR10DVS" / name / f"cifar10_{name}_{number}.aedat", aedat(EVENTS if number < 18 else EVENTS[:1]))


@pytest.mark.parametrize(("name", "shape", "train", "test"), [
    ("nmnist", (2, 34, 34), 30, 10), ("nmnist_small", (2, 34, 34), 2, 2), ("ncaltech101", (2, 240, 240), 30, 3),
    ("ncars", (2, 120, 120), 2, 2), ("cifar10dvs", (2, 128, 128), 180, 20)])
def test_layouts(tmp_path: Path, name: str, shape: tuple[int, ...], train: int, test: int) -> None:
    layouts(tmp_path)
    for part, count in ((True, train), (False, test)):
        images, labels = datasets.read(name, part, tmp_path)
        assert images.shape == (count, *shape) and images.dtype == np.uint8 and labels.dtype == np.int64
    classes = datasets.known(name).classes(datasets.folder_of(name, tmp_path))
    assert len(classes) == {"ncaltech101": 3, "ncars": 2}.get(name, 10)


def test_labels_order_and_orientation(tmp_path: Path) -> None:
    layouts(tmp_path)
    assert datasets.read("nmnist_small", True, tmp_path)[1].tolist() == [7, 3]
    images, labels = datasets.read("nmnist_small", False, tmp_path, count=1)
    assert labels.tolist() == [9] and images.sum() == 2, "recording 4 is the first of the list"
    assert datasets.read("nmnist", True, tmp_path, count=3)[1].tolist() == [0, 4, 9], "spread over the classes"
    images, labels = datasets.read("cifar10dvs", False, tmp_path)
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert images[0].sum() == 1 and images[0, 1, 127 - 4, 3] == 1, "18 and 19 are the last tenth; rows count from the bottom"
    assert datasets.read("ncaltech101", True, tmp_path)[1].tolist() == [0] * 10 + [1] * 10 + [2] * 10


def test_damaged_layouts(tmp_path: Path) -> None:
    layouts(tmp_path)
    put(tmp_path / "nmnist_small" / "test100.txt", b"#sample #class\n4\t9\n3\t10\n")
    with pytest.raises(DataError, match=r"test100\.txt: byte offset 19: b'3\\t10\\n' is not a number and a digit"):
        datasets.read("nmnist_small", False, tmp_path)
    put(tmp_path / "nmnist_small" / "test100.txt", b"#sample #class\n")
    with pytest.raises(DataError, match=r"test100\.txt: byte offset 15: lists no recording"):
        datasets.read("nmnist_small", False, tmp_path)
    (tmp_path / "nmnist_small" / "2.bs2").unlink()
    with pytest.raises(DataError, match=r"2\.bs2: cannot be read"):
        datasets.read("nmnist_small", True, tmp_path)
    for file in (tmp_path / "N-MNIST" / "Test" / "4").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"Test/4: holds no \.bin recording"):
        datasets.read("nmnist", False, tmp_path)
    with pytest.raises(DataError, match=r"cars: no such folder"):
        (tmp_path / "Prophesee_Dataset_n_cars" / "n-cars_test" / "cars").rename(tmp_path / "gone")
        datasets.read("ncars", False, tmp_path)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["data", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", list(datasets.DATASETS))
def test_a_missing_set_says_what_to_get_and_how_to_point_to_it(tmp_path: Path, name: str,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "--dataset", name, "--root", str(tmp_path))
    assert code == 2 and out == "" and err.count("\n") == 1
    entry = datasets.DATASETS[name]
    assert f"{(entry.holds or entry.folders)[0]}: no such folder: unpack" in err and "MST_DATA" in err
    assert "https://" in err or name == "folder"


def test_data_command_lists_all_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    assert main(["data", "--root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(datasets.DATASETS)
    assert f"fashion_mnist: {tmp_path / 'fashion-mnist'}" in lines
    assert sum(": not there (" in line and "unpack" in line for line in lines) == len(datasets.DATASETS) - 1


def test_data_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts(tmp_path)
    root = ("--root", str(tmp_path))
    assert told(capsys, "--dataset", "svhn")[2].startswith("unknown dataset 'svhn'; known: cifar10, cifar100,")
    code, _, err = told(capsys, "--dataset", "nmnist", *root)
    assert code == 2 and "the training part holds 30 of 60000: get Train.zip" in err
    put(tmp_path / "CIFAR10DVS" / "cat" / "cifar10_cat_3.aedat", aedat(EVENTS)[:-3])
    code, _, err = told(capsys, "--dataset", "cifar10dvs", *root)
    assert code == 2 and "holds 180 of 9000" in err
    code, out, err = told(capsys, "--dataset", "ncaltech101", *root)
    assert code == 0 and "33 recordings" not in out and "train: 30 recordings, 90 events (3 each) of a 240x180 sensor" in out
    put(tmp_path / "Caltech101" / "accordion" / "image_0002.bin", atis(EVENTS)[:-3])
    code, _, err = told(capsys, "--dataset", "ncaltech101", *root)
    assert code == 2 and "image_0002.bin: byte offset 10: the last record is cut short" in err and err.count("\n") == 1
    code, _, err = told(capsys, "--dataset", "ncars", *root, "--config", str(ROOT / "configs" / "nmnist-tiny.toml"))
    assert code == 2 and "is for nmnist_small, not for ncars" in err
    assert "--tonic compares event recordings" in told(capsys, "--dataset", "cifar10", *root, "--tonic")[2]


def test_data_command_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    layouts(tmp_path / "data")
    command = [sys.executable, "-m", "model", "data", "--dataset", "ncaltech101", "--root", str(tmp_path / "data")]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "classes: BACKGROUND_Google, Faces_easy, accordion" in done.stdout


def test_missing_tonic_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    layouts(tmp_path)
    monkeypatch.setitem(sys.modules, "tonic", None)
    code, _, err = told(capsys, "--dataset", "ncaltech101", "--root", str(tmp_path), "--tonic")
    assert (code, err) == (2, "tonic cannot be imported: install it with `make events`\n")


@pytest.mark.skipif(not SMALL.is_dir(), reason=f"{SMALL} is not there: point MST_DATA to the recordings")
def test_the_real_subset(capsys: pytest.CaptureFixture[str]) -> None:
    found = config.load(ROOT / "configs" / "nmnist-tiny.toml")
    images, labels = datasets.read_for(found, False)
    assert images.shape == (100, 6, 32, 32) and images.max() == 7
    assert np.bincount(labels).tolist() == [8, 14, 8, 11, 14, 7, 10, 15, 2, 11]
    part = event_sets.nmnist_small(SMALL, False)
    view = datasets.representation(found)
    assert np.array_equal(images[5], naive(part.events(5), part.sensor, view))
    code, out, _ = told(capsys, "--dataset", "nmnist_small", "--part", "test")
    assert code == 0 and "test: 100 recordings, 385596 events (3855 each) of a 34x34 sensor" in out
