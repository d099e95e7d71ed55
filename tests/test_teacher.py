"""The convolutional teacher: whitening, Muon's step, an interrupted run, and views that belong to their logits."""
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.checkpoint import CheckpointError
from model.data import Augment, Images
from model.teacher import (
    FORMAT,
    TeacherConfig,
    TeacherNet,
    TeacherRun,
    load_net,
    main,
    make_views,
    measured_accuracy,
    orthogonal,
    whitening,
)
from model.views import Views, view_draws

torch.set_num_threads(1)
CONFIG = TeacherConfig(widths=(4, 8, 8), classes=10, epochs=2, batch=8, seed=3)


def data(count: int = 24) -> Images:
    random = torch.Generator().manual_seed(2)
    return Images(torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=random), torch.arange(count) % 10)


def test_whitened_patches_are_uncorrelated_and_of_one_size() -> None:
    images = data().images.float() / 255
    images = images - images.mean((0, 2, 3), keepdim=True)
    filters = whitening(images)
    assert filters.shape == (24, 3, 2, 2) and torch.equal(filters[:12], -filters[12:])
    found = torch.nn.functional.conv2d(images, filters[:12]).movedim(1, 0).flatten(1)
    assert torch.allclose(found @ found.T / found.shape[1], torch.eye(12), atol=0.02)


def test_orthogonal_brings_singular_values_near_1() -> None:
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    for given in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonal(given, steps=8))
        assert 0.6 < float(values.min()) and float(values.max()) < 1.3


def test_an_interrupted_run_repeats_the_whole_one(tmp_path: Path) -> None:
    whole = TeacherRun(CONFIG, data(), tmp_path / "whole", compiled=False)
    for _ in range(2):
        whole.run_epoch()
    TeacherRun(CONFIG, data(), tmp_path / "parts", compiled=False).run_epoch()
    resumed = TeacherRun(CONFIG, data(), tmp_path / "parts", compiled=False)
    assert resumed.epoch == 1
    resumed.run_epoch()
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, resumed.net.state_dict()[name]), name
    net, info = load_net(tmp_path / "whole" / "state.safetensors")
    assert info["epoch"] == 2
    assert measured_accuracy(net, data()) == measured_accuracy(whole.net, data())
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        TeacherRun(TeacherConfig(widths=(4, 8, 8), epochs=3, batch=8, seed=3), data(), tmp_path / "whole")


def test_views_hold_the_logits_of_their_pictures(tmp_path: Path) -> None:
    net, images = TeacherNet(CONFIG), data()
    make_views(net, images, 5, 4, tmp_path / "views.safetensors", "digest", views=3)
    views = Views.load(tmp_path / "views.safetensors")
    assert views.logits.shape == (3, 24, 10) and (views.seed, views.pad, views.teacher) == (5, 4, "digest")
    assert [path.name for path in tmp_path.iterdir()] == ["views.safetensors"]
    index = torch.arange(24)
    for view in range(3):
        picture = Augment(images.images, 4).apply(index, *view_draws(5, view, 24, 4))
        with torch.no_grad():
            assert torch.equal(views.logits[view], net(net.normalise(picture)).half())
    assert not torch.equal(views.logits[0], views.logits[1])


def test_a_part_of_another_teacher_is_made_anew(tmp_path: Path) -> None:
    first, second = TeacherNet(CONFIG), TeacherNet(CONFIG)
    path = tmp_path / "views.safetensors"
    make_views(first, data(), 5, 4, path, "first", views=1)
    Views.load(path)
    wanted = Views.load(path).logits
    checkpoint.write(tmp_path / "views.0.part.safetensors", {"logits": wanted}, FORMAT,
                     {"view": 0, "seed": 5, "pad": 4, "teacher": "first"})
    make_views(second, data(), 5, 4, path, "second", views=1)
    assert not torch.equal(Views.load(path).logits, wanted)


def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--epochs", "0"]) == 2
    assert capsys.readouterr().err == "--epochs must be at least 1, not 0\n"
