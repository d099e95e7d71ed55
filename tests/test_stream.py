"""Training on a stream of pictures: the run of pictures in memory to the bit, whatever the workers, and bounded."""
from pathlib import Path

import numpy as np
import pytest
import torch

from model import stream
from model.config import Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.data import Images
from model.dataset import DataError
from model.stream import StreamedPictures, training_pictures
from model.train import Trainer

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: make train")
MODEL = ModelConfig(image_size=16, in_channels=3, classes=3, patch=4, embedding=8, depths=(1,), heads=(2,), window=4,
                    mlp_ratio=1.0, levels=3)
SETTINGS = TrainConfig(dataset="folder", epochs=2, batch=8, shards=2, holdout=6, warmup_epochs=1, precision="float32", crop_pad=2,
                       randaugment_ops=1, erasing=0.25)
CONFIG = Config("c", MODEL, MaskingConfig(), SETTINGS, QuantizeConfig(), {})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 11 training pictures of noise."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for part, count in (("train", 11), ("test", 2)):
        for name in "abc":
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (20, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number:02}.png")
    return folder


def pictures(root: Path, memory: float, workers: int = 0) -> Images | StreamedPictures:
    return training_pictures(CONFIG, str(root), memory, workers)


def trained(data: Images | StreamedPictures, folder: Path, epochs: int | None = None) -> Trainer:
    trainer = Trainer(CONFIG, data, folder, compiled=False)
    trainer.run(epochs)
    return trainer


@pytest.fixture(scope="module")
def in_memory(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    data = pictures(root, 1)
    assert isinstance(data, Images) and data.class_names == ("a", "b", "c")
    return trained(data, tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_run_is_the_run_in_memory(root: Path, in_memory: Trainer, tmp_path: Path, workers: int) -> None:
    """Losses and weights to the bit; broken off after an epoch, too."""
    data = pictures(root, 0, workers)
    assert isinstance(data, StreamedPictures) and data.size == 33 * 3 * 256
    trained(data, tmp_path, 1)
    streamed = trained(data, tmp_path)
    assert [entry["loss"] for entry in streamed.log] == [entry["loss"] for entry in in_memory.log]
    assert [entry["held_out"] for entry in streamed.log] == [entry["held_out"] for entry in in_memory.log]
    for key, tensor in in_memory.mean.state_dict().items():
        assert torch.equal(streamed.mean.state_dict()[key], tensor), key
    assert streamed.held.labels.bincount().tolist() == [2, 2, 2] and streamed.info()["class_names"] == ["a", "b", "c"]


def test_batches_come_in_the_order_asked_for_and_no_other_is_given(root: Path, tmp_path: Path) -> None:
    data = pictures(root, 0, 2)
    order = torch.tensor([[5, 1], [30, 2], [0, 32]])
    for wanted, (row, images) in zip(order, data.batches(order), strict=True):
        assert torch.equal(row, wanted) and torch.equal(images, data.chosen(wanted))
    augment = Trainer(CONFIG, data, tmp_path, compiled=False).augment
    augment.begin(torch.tensor([[3, 4]]))
    with pytest.raises(RuntimeError, match="another batch than the one announced"):
        augment.apply(torch.tensor([4, 3]), torch.zeros((2, 2), dtype=torch.int64), torch.zeros(2, dtype=torch.bool))


def test_statistics_are_measured_on_a_bounded_number(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, every = pictures(root, 0), torch.arange(33)
    mean, spread = data.statistics(every)
    pixels = data.chosen(every).double().transpose(0, 1).flatten(1) / 255
    assert mean == pytest.approx(pixels.mean(1).tolist()) and spread == pytest.approx(pixels.std(1, correction=0).tolist())
    seen: list[int] = []
    decode = StreamedPictures.chosen
    monkeypatch.setattr(StreamedPictures, "chosen", lambda self, index: seen.extend(index.tolist()) or decode(self, index))
    monkeypatch.setattr(stream, "STATISTICS_IMAGES", 5)
    data.statistics(every)
    assert seen == [0, 8, 16, 24, 32]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_picture_ends_the_run_in_one_line(root: Path, tmp_path: Path, workers: int) -> None:
    for path in root.rglob("*.png"):
        target = tmp_path / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    data = pictures(tmp_path, 0, workers)
    trainer = Trainer(CONFIG, data, tmp_path / "run", compiled=False)
    for name in "abc":
        (tmp_path / "train" / name / "04.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"04\.png: not a whole image") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)


def test_only_what_is_kept_or_measured_is_decoded_before_the_run(root: Path, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """6 pictures held out, a batch of 8 for the thresholds, 4 for the statistics; ImageNet's are published."""
    decoded: list[int] = []
    decode = StreamedPictures.chosen
    monkeypatch.setattr(StreamedPictures, "chosen", lambda self, index: decoded.extend(index.tolist()) or decode(self, index))
    monkeypatch.setattr(stream, "STATISTICS_IMAGES", 4)
    trainer = Trainer(CONFIG, pictures(root, 0), tmp_path, compiled=False)
    assert decoded[:6] == [9, 10, 20, 21, 31, 32] and len(decoded) == 6 + 8 + 4
    assert {int(trainer.labels[i]) for i in range(27)} == {0, 1, 2}
    with pytest.raises(ValueError, match="--workers and --memory must be at least 0, not -1 and 1"):
        pictures(root, 1, -1)
