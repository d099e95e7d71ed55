"""Which training images are held out, in training and in the search of masking ratios."""
import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import checkpoint
from model.config import Config, ConfigError, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.data import Images
from model.dataset import DataError
from model.holdout import shares, split
from model.mst import MST
from model.train import Trainer, TrainingError
from sim.studies import search
from sim.studies.setting import Setting

MODEL = ModelConfig(image_size=16, in_channels=3, classes=4, patch=4, embedding=8, depths=(1,), heads=(2,), window=4,
                    mlp_ratio=1.0, levels=3)
SETTINGS = TrainConfig(epochs=1, batch=8, shards=1, holdout=12, precision="float32")
CONFIG = Config("c", MODEL, MaskingConfig(), SETTINGS, QuantizeConfig(), {})
LABELS = np.repeat(np.arange(4), 6)


def images() -> Images:
    """24 pictures in class order, picture i with the value i in its first pixel."""
    pixels = torch.randint(256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[:, 0, 0, 0] = torch.arange(24, dtype=torch.uint8)
    return Images(pixels, torch.from_numpy(LABELS))


def test_a_set_in_class_order_keeps_every_class_in_both_parts() -> None:
    train, held = split(LABELS, 12)
    assert held.tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23]
    assert sorted([*train, *held]) == list(range(24)) and np.array_equal(train, np.sort(train))
    assert split(LABELS, 12, "last")[1].tolist() == list(range(12, 24))
    assert split(LABELS, 0)[1].tolist() == []


def test_shares_follow_the_classes_sizes_and_leave_one_image_of_each() -> None:
    labels = np.repeat([0, 1, 3], [10, 5, 1])
    assert shares(labels, 8).tolist() == [5, 3, 0, 0], "5, 2.5 and 0.5, of which one is the only image"
    assert shares(labels, 3).tolist() == [2, 1, 0, 0]
    assert shares(labels, 13).tolist() == [9, 4, 0, 0]
    with pytest.raises(ValueError, match="14 of 16 images cannot be held out: each of the 3 classes keeps one"):
        shares(labels, 14)
    random = np.random.default_rng(0)
    for _ in range(50):
        labels = random.integers(0, random.integers(1, 9), random.integers(1, 60))
        totals = np.bincount(labels)
        count = int(random.integers(0, np.maximum(totals - 1, 0).sum() + 1))
        found = shares(labels, count)
        assert found.sum() == count and (found <= np.maximum(totals - 1, 0)).all() and (found >= 0).all()


def test_training_holds_out_of_every_class(tmp_path: Path) -> None:
    data = images()
    run = Trainer(CONFIG, data, tmp_path / "a", compiled=False)
    assert run.held.labels.bincount().tolist() == [3] * 4 and run.labels.bincount().tolist() == [3] * 4
    assert torch.equal(run.held.images, data.images[torch.from_numpy(split(LABELS, 12)[1])])
    old = dataclasses.replace(CONFIG, train=dataclasses.replace(SETTINGS, split="last"))
    assert Trainer(old, data, tmp_path / "b", compiled=False).labels.bincount().tolist() == [6, 6]
    run.run()
    with pytest.raises(checkpoint.CheckpointError, match=r"\[train\] split was stratified, is last"):
        Trainer(old, data, tmp_path / "a", compiled=False)


def test_impossible_parts_are_refused(tmp_path: Path) -> None:
    for holdout, message in ((24, "[train] holdout = 24 leaves none of 24 images to train on: lower it"),
                             (21, "[train] holdout = 21: 21 of 24 images cannot be held out: "
                                  "each of the 4 classes keeps one: lower it")):
        config = dataclasses.replace(CONFIG, train=dataclasses.replace(SETTINGS, holdout=holdout))
        with pytest.raises(TrainingError, match=re.escape(message)):
            Trainer(config, images(), tmp_path, compiled=False)
    few = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, classes=3))
    with pytest.raises(DataError, match=r"cifar10 has labels up to 3, but \[model\] classes is 3: set it to 4 or more"):
        Trainer(few, images(), tmp_path, compiled=False)
    with pytest.raises(ConfigError, match=r"\[train\] split must be stratified or last, not 'first'"):
        TrainConfig(split="first")


def test_the_search_takes_what_training_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images()
    monkeypatch.setattr(search.datasets, "read_for", lambda config, train, root: (data.images.numpy(), LABELS))
    none: Any = None
    setting = Setting(Path("c.toml"), CONFIG, none, np.zeros((0, 16, 16, 3), np.uint8), LABELS[:0], "none",
                      tmp_path / "c.safetensors", "none")
    held = search.held_out(setting, 12, None)
    assert held.images[:, 0, 0, 0].tolist() == split(LABELS, 12)[1].tolist() and np.bincount(held.labels).tolist() == [3] * 4
    assert search.held_out(setting, 4, None).labels.tolist() == [0, 1, 2, 3]
    checkpoint.save(tmp_path / "c.safetensors", MST(MODEL, MaskingConfig()), {"epoch": 1})
    with pytest.raises(ConfigError, match=r"was trained with \[train\] split = 'last', the configuration says 'stratified'"):
        search.held_out(setting, 4, None)
    old = dataclasses.replace(CONFIG, train=dataclasses.replace(SETTINGS, split="last"))
    assert search.held_out(dataclasses.replace(setting, config=old), 4, None).labels.tolist() == [3, 3, 3, 3]
