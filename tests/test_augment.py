"""Augmentation: each operation on pictures whose answer is known, and draws that do not depend on how a batch is cut."""
import dataclasses

import pytest
import torch
from torch import Tensor

from model import augment
from model.augment import OPERATIONS, Draws, change, draw, mix, operate, paths
from model.config import TrainConfig

ALL = TrainConfig(randaugment_ops=2, mixup=0.8, cutmix=1.0, erasing=0.25, drop_path=0.2)
ONE = torch.ones(1)


def picture(count: int = 1, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randint(256, (count, channels, side, side), generator=torch.Generator().manual_seed(4)).to(torch.uint8)


def ramp(side: int = 16) -> Tensor:
    """One grey image whose columns rise from 40 on."""
    return (40 + 4 * torch.arange(side)).to(torch.uint8).expand(1, 3, side, side).contiguous()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_shape_and_leave_magnitude_0_alone(name: str) -> None:
    images = picture(2)
    done = operate(name, images, 9.0, torch.tensor([1.0, -1.0]))
    assert (done.shape, done.dtype) == (images.shape, torch.uint8)
    assert torch.equal(done, images) == (name == "identity")
    if name not in ("autocontrast", "equalize"):
        assert torch.equal(operate(name, images, 0.0, torch.ones(2)), images), name


def test_known_answers() -> None:
    image = ramp()
    assert operate("brightness", image, 10, ONE)[0, 0, 0, :2].tolist() == [76, 84]  # 40 * 1.9
    assert operate("brightness", image, 10, -ONE)[0, 0, 0, :2].tolist() == [4, 4]  # 40 * 0.1, 44 * 0.1
    assert operate("posterize", image, 10, ONE)[0, 0, 0, :5].tolist() == [32, 32, 48, 48, 48]  # the upper four bits
    assert operate("solarize", image, 8, ONE)[0, 0, 0, [0, 2, 3]].tolist() == [40, 48, 203]  # threshold 256 - 204.8
    assert operate("autocontrast", image, 0, ONE)[0, 0, 0, [0, 1, 15]].tolist() == [0, 17, 255]
    assert operate("contrast", image, 10, -ONE)[0, 0, 0, [0, 15]].tolist() == [67, 73]  # mean 70
    assert torch.equal(operate("color", image, 10, ONE), image), "grey has no colour to change"
    assert torch.equal(operate("sharpness", image, 10, ONE), image), "a ramp is as smooth as it gets"
    assert operate("sharpness", picture(), 10, ONE).float().std() > picture().float().std()


def test_equalize_spreads_two_values_and_keeps_one() -> None:
    """PIL's rule: a table from the running histogram; the largest value's own pixels do not count into the step."""
    image = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    assert torch.equal(operate("equalize", image, 0, ONE), image)
    many = torch.arange(4096).reshape(1, 1, 64, 64).div(64, rounding_mode="floor").to(torch.uint8)  # 64 values, 64 of each
    step = (4096 - 64) // 255
    assert operate("equalize", many, 0, ONE)[0, 0, :, 0].tolist() == [min(255, (64 * v + step // 2) // step) for v in range(64)]


def test_geometry() -> None:
    image = torch.full((1, 1, 10, 10), 128, dtype=torch.uint8)
    image[0, 0, 2, 3] = 255
    right = operate("translate_x", image, 10 / 0.45 * 0.2, ONE)
    assert right[0, 0, 2, 1] == 255 and right.float().sum() == image.float().sum()
    down = operate("translate_y", image, 10 / 0.45 * 0.2, -ONE)
    assert down[0, 0, 4, 3] == 255
    turned = operate("rotate", picture(), 10, ONE)
    back = operate("rotate", picture(), 10, -ONE)
    assert not torch.equal(turned, back)
    for one, other in ((operate("rotate", picture().flip(3), 10, ONE), back.flip(3)),
                       (operate("shear_x", picture().flip(2), 10, ONE), operate("shear_x", picture(), 10, -ONE).flip(2)),
                       (operate("shear_y", picture().mT.contiguous(), 10, ONE), operate("shear_x", picture(), 10, ONE).mT)):
        assert (one.int() - other.int()).abs().max() <= 1, "mirrored alike, but for halves that round the other way"


def test_a_part_of_a_batch_undergoes_what_it_does_in_the_whole() -> None:
    images = picture(8)
    drawn = draw(ALL, 8, 3, 16, 4, torch.Generator().manual_seed(5))
    whole = change(images, 9.0, drawn)
    halves = [change(images[part], 9.0, drawn.rows(part, torch.device("cpu"))) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, change(images, 9.0, draw(ALL, 8, 3, 16, 4, torch.Generator().manual_seed(6))))


def test_every_operation_is_drawn_alike_often() -> None:
    drawn = draw(dataclasses.replace(ALL, randaugment_ops=8), 7000, 3, 16, 4, torch.Generator().manual_seed(5))
    shares = drawn.operations.flatten().bincount(minlength=14) / 56000
    assert len(shares) == 14 and ((shares - 1 / 14).abs() < 0.005).all()
    assert abs(drawn.signs.mean()) < 0.02
    erased = (drawn.boxes[:, 2] > drawn.boxes[:, 0])
    assert abs(erased.float().mean() - 0.25) < 0.02
    top, left, bottom, right = drawn.boxes[erased].T
    assert (top >= 0).all() and (left >= 0).all() and (bottom <= 16).all() and (right <= 16).all()
    area = ((bottom - top) * (right - left) / 256).float()
    assert 0.15 < area.mean() < 0.2 and area.max() < 0.45


def test_erasing_fills_its_box_alone() -> None:
    images = picture(2)
    boxes, fills = torch.tensor([[2, 3, 6, 9], [0, 0, 0, 0]]), torch.tensor([[9, 8, 7], [1, 1, 1]], dtype=torch.uint8)
    none = torch.zeros((2, 0))
    done = change(images, 9.0, Draws(none, none, boxes, fills, none, 1.0, (0, 0, 0, 0)))
    assert (done[0, :, 2:6, 3:9] == fills[0, :, None, None]).all()
    images[0, :, 2:6, 3:9] = fills[0, :, None, None]
    assert torch.equal(done, images)


def drawn_mix(keep: float, box: tuple[int, int, int, int]) -> Draws:
    none = torch.zeros((2, 0))
    return Draws(none, none, none, none, none, keep, box)


def test_mixup_and_cutmix_mix_pictures_and_labels_alike() -> None:
    images, labels = torch.stack((torch.zeros(1, 4, 4), torch.ones(1, 4, 4))), torch.tensor([0, 2])
    same, classes = mix(images, labels, 3, drawn_mix(1.0, (0, 0, 0, 0)))
    assert same is images and classes is labels
    mixed, shares = mix(images, labels, 3, drawn_mix(0.75, (0, 0, 0, 0)))
    assert mixed[0].unique().tolist() == [0.25] and mixed[1].unique().tolist() == [0.75]
    assert shares.tolist() == [[0.75, 0, 0.25], [0.25, 0, 0.75]]
    cut, shares = mix(images, labels, 3, drawn_mix(0.75, (0, 1, 2, 3)))
    assert cut[0].mean() == 0.25 and cut[0, 0, :2, 1:3].min() == 1 and cut[1].mean() == 0.75
    assert shares.tolist() == [[0.75, 0, 0.25], [0.25, 0, 0.75]]


def test_mixing_is_drawn_as_configured() -> None:
    random = torch.Generator().manual_seed(7)
    drawn = [augment._mixed(ALL, 16, random) for _ in range(400)]
    cuts = [(keep, box) for keep, box in drawn if any(box)]
    assert 150 < len(cuts) < 250
    for keep, (top, left, bottom, right) in cuts:
        assert keep == 1 - (bottom - top) * (right - left) / 256
    only = dataclasses.replace(ALL, cutmix=0.0, mix_probability=0.5)
    drawn = [augment._mixed(only, 16, random) for _ in range(400)]
    assert not any(any(box) for _, box in drawn)
    assert 150 < sum(keep == 1 for keep, _ in drawn) < 250
    assert augment._mixed(TrainConfig(), 16, random) == (1.0, (0, 0, 0, 0))


def test_drop_path_rises_to_its_rate_and_keeps_the_mean() -> None:
    names = [f"s0.b{block}.{act}" for block in range(3) for act in ("act1", "act2")]
    drawn = draw(dataclasses.replace(ALL, drop_path=0.4), 20000, 3, 16, 6, torch.Generator().manual_seed(5))
    factors = paths(names, 0.4, drawn)
    assert list(factors) == names
    for name, rate in zip(names, (0, 0, 0.2, 0.2, 0.4, 0.4), strict=True):
        assert factors[name].unique().tolist() == pytest.approx([1.0] if rate == 0 else [0.0, 1 / (1 - rate)])
        assert abs(factors[name].mean() - 1) < 0.02
    assert paths(names, 0.0, draw(TrainConfig(), 4, 3, 16, 6, torch.Generator())) == {}


def test_options_that_are_off_take_nothing_from_the_generator() -> None:
    random, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    draw(TrainConfig(), 8, 3, 16, 4, random)
    assert torch.equal(random.get_state(), other.get_state())
