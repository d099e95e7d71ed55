"""Labels that a network has no class for are refused at every door, not counted as mistakes."""
from pathlib import Path

import numpy as np
import pytest
from data_files import write_cifar

from model import config as configuration
from model.dataset import DataError, expect_labels
from model.datasets import read_for
from sim.__main__ import main as sim_main

CONFIG = """
[model]
image_size = 32
in_channels = 3
classes = 3
patch = 4
embedding = 8
depths = [1]
heads = [2]
window = 4
mlp_ratio = 1.0
levels = 7
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "few.toml").write_text(CONFIG)
    return tmp_path / "few.toml"


def test_a_data_set_of_more_classes_is_refused_for_training_and_evaluation(config: Path, tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")
    for train in (False, True):
        with pytest.raises(DataError, match=r"cifar10 has labels up to \d, but \[model\] classes is 3: set it to \d or more"):
            read_for(configuration.load(config), train, tmp_path / "data")


def test_images_of_more_classes_are_refused_by_the_simulator(config: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.npz"
    for labels, code, said in (([0, 3], 2, "own.npz has labels up to 3, but [model] classes is 3: set it to 4 or more"),
                               ([0, -1], 2, "own.npz has the label -1"), ([0, 2], 0, "")):
        np.savez(file, images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.array(labels))
        assert sim_main(["golden", "--config", str(config), "--random-weights", "1", "--images", "2",
                         "--images-file", str(file)]) == code
        assert said in capsys.readouterr().err


def test_the_largest_label_that_is_a_class_is_taken() -> None:
    expect_labels(np.array([0, 2]), 3, "set")
    expect_labels(np.zeros(0, np.int64), 3, "set")
