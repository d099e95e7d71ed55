"""From a folder of pictures to Verilog, by the commands of docs/datasets.md; class names all the way; damaged names refused."""
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from hwgen.__main__ import main as hwgen_main
from model import checkpoint
from model.__main__ import main as model_main
from quantize import network as network_file
from quantize.__main__ import main as quantize_main
from quantize.network import NetworkError

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: make train")
pytestmark = pytest.mark.slow
NAMES = ["blue", "green", "red"]
CONFIGURATION = """
[model]
image_size = 16
in_channels = 3
classes = 3
patch = 4
embedding = 16
depths = [1]
heads = [2]
window = 4
mlp_ratio = 1.0
levels = 3
[train]
dataset = "folder"
epochs = 12
batch = 8
shards = 1
holdout = 6
warmup_epochs = 1
rate = 5e-3
average = 0.5
precision = "float32"
crop_pad = 2
[machine]
lanes = 16
"""


def write_folder(root: Path) -> None:
    """Three classes, each with a colour of its own under noise, in four formats and two sizes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 18), ("test", 8)):
        for channel, name in ((2, "blue"), (1, "green"), (0, "red")):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (16, 16 + 8 * (number % 2), 3), np.uint8)
                pixels[..., channel] += 130
                suffix = ("png", "bmp", "jpg", "webp")[number % 4]
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.{suffix}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first three of the four commands; the fourth, `make bitstream`, needs place and route."""
    root = tmp_path_factory.mktemp("folder")
    write_folder(root / "pictures")
    (root / "own.toml").write_text(CONFIGURATION)
    config = ["--config", str(root / "own.toml")]
    assert model_main(["train", *config, "--data", str(root / "pictures"), "--no-compile", "--runs", str(root / "runs")]) == 0
    assert quantize_main(["export", *config]) == 0
    assert hwgen_main(["emit", *config, "--output", str(root / "build")]) == 0
    return root


def test_the_folder_becomes_verilog(project: Path) -> None:
    text = "".join(path.read_text() for path in (project / "build").rglob("*.v"))
    assert "module mst_accelerator" in text


def test_class_names_go_with_the_network(project: Path) -> None:
    assert checkpoint.load(project / "own.safetensors")[1]["class_names"] == NAMES
    network = network_file.load(project / "own.mstn")
    assert list(network.class_names) == NAMES
    bare = dataclasses.replace(network, class_names=())
    assert network_file.digest(bare) == network_file.digest(network), "names build no other hardware"
    assert b"class_names" not in network_file.encode(bare) and b"class_names" in network_file.encode(network)


def test_the_network_has_learnt_and_the_integers_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(project / "own.toml"), "--data", str(project / "pictures")]
    assert model_main(["evaluate", *config, "--modes", "qcfs", "--no-compile"]) == 0
    assert json.loads(capsys.readouterr().out)["qcfs"] > 0.9
    assert quantize_main(["accuracy", *config, "--results", str(project / "results")]) == 0
    found = re.search(r"integer network ([\d.]+) % .* on 24 test images", capsys.readouterr().out)
    assert found and float(found[1]) > 90


def test_a_folder_of_other_classes_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = project / "other"
    write_folder(other)
    for part in ("train", "test"):
        (other / part / "blue").rename(other / part / "cyan")
    assert model_main(["evaluate", "--config", str(project / "own.toml"), "--data", str(other)]) == 2
    assert "was trained on classes of other names (blue, cyan): give it the folder" in capsys.readouterr().err


@pytest.mark.parametrize("names, message", [
    (["a", "b"], "has class names ['a', 'b'] ..., 2 of them, for 3 classes"), (["a", "b", "b"], "3 of them, for 3 classes"),
    (["a", "b", ""], "one text for each is wanted"), ([1, 2, 3], "class_names is not a list of texts")])
def test_damaged_names_are_refused(project: Path, tmp_path: Path, names: list[object], message: str) -> None:
    data = (project / "own.mstn").read_bytes()
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[16:16 + length])
    text = json.dumps(header | {"class_names": names}, sort_keys=True, indent=1).encode()
    body = data[:12] + len(text).to_bytes(4, "little") + text + data[16 + length:-32]
    (tmp_path / "bad.mstn").write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(NetworkError) as caught:
        network_file.load(tmp_path / "bad.mstn")
    assert message in str(caught.value)
