"""Distillation's loss and its teacher; reduced precision; what the recipe of the paper needs in one step."""
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.config import Config, ConfigError, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig, load
from model.data import Images
from model.distill import Teacher, distillation
from model.mst import MST
from model.train import Trainer, TrainingError, accuracy, rate_at

torch.set_num_threads(1)
SHAPE = ModelConfig(image_size=8, in_channels=3, classes=3, patch=2, embedding=8, depths=(1, 1), heads=(2, 2), window=2,
                    mlp_ratio=2.0, levels=7, qkv_norm=True)
PAPER = load("configs/mst-cifar10.toml")


def data(count: int = 56) -> Images:
    random = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (count,), generator=random)
    images = torch.randint(100, (count, 3, 8, 8), generator=random)
    images[torch.arange(count), labels] += 120  # a class is a colour
    return Images(images.to(torch.uint8), labels)


def trainer(folder: Path, settings: TrainConfig, masking: MaskingConfig | None = None, teacher: Teacher | None = None) -> Trainer:
    config = Config("tiny", SHAPE, masking or MaskingConfig(), settings, QuantizeConfig(), {})
    return Trainer(config, data(), folder, compiled=False, teacher=teacher)


def test_the_loss_is_hintons() -> None:
    student, teacher = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    wanted = [math.exp(2 / 4) / (math.exp(2 / 4) + 1), 1 / (math.exp(2 / 4) + 1)]
    given = [math.exp(1 / 4) / (math.exp(1 / 4) + math.exp(3 / 4)), math.exp(3 / 4) / (math.exp(1 / 4) + math.exp(3 / 4))]
    expected = 16 * sum(p * math.log(p / q) for p, q in zip(wanted, given, strict=True))
    assert float(distillation(student, teacher, 4.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distillation(teacher, teacher, 4.0)) == 0


def test_a_student_learns_what_its_teacher_says(tmp_path: Path) -> None:
    """The labels' loss has no weight here: what the student knows of the classes comes from the teacher."""
    settings = TrainConfig(epochs=6, batch=16, rate=5e-3, warmup_epochs=1, holdout=8, average=0.9, precision="float32")
    first = trainer(tmp_path / "teacher", settings)
    first.run()
    checkpoint.save(tmp_path / "teacher.safetensors", first.mean, {})
    teacher = Teacher.load(tmp_path / "teacher.safetensors", SHAPE)
    before = {name: tensor.clone() for name, tensor in teacher.model.state_dict().items()}
    learning = dataclasses.replace(settings, distill_weight=1.0, warm_start=False)
    student = trainer(tmp_path / "student", learning, MaskingConfig(("q", "k"), 0.5), teacher)
    assert not torch.equal(student.model.head.weight, teacher.model.head.weight)
    student.run()
    assert student.log[-1]["loss"] < student.log[0]["loss"]
    assert accuracy(student.mean, data(300)) > 0.5, "of three classes"
    for name, tensor in teacher.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"the teacher's {name} has changed"
    warm = trainer(tmp_path / "warm", dataclasses.replace(learning, warm_start=True), MaskingConfig(("q", "k"), 0.5), teacher)
    assert torch.equal(warm.model.head.weight, teacher.model.head.weight)


@pytest.mark.parametrize(("key", "value"), [("image_size", 16), ("in_channels", 1), ("classes", 4)])
def test_a_teacher_of_another_task_is_refused(tmp_path: Path, key: str, value: int) -> None:
    checkpoint.save(tmp_path / "t.safetensors", MST(dataclasses.replace(SHAPE, **{key: value}), MaskingConfig()), {})
    with pytest.raises(ConfigError, match=f"t.safetensors: the teacher has {key} = {value}, the configuration says"):
        Teacher.load(tmp_path / "t.safetensors", SHAPE)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_reduced_precision_learns_and_resumes(tmp_path: Path, precision: str) -> None:
    settings = TrainConfig(epochs=6, batch=16, rate=5e-3, warmup_epochs=1, holdout=8, average=0.9, precision=precision)
    run = trainer(tmp_path, settings)
    assert run.scaler.is_enabled() == (precision == "float16")
    run.run(3)
    scale = run.scaler.state_dict()
    again = trainer(tmp_path, settings)
    assert again.scaler.state_dict() == scale
    again.run()
    assert again.log[-1]["loss"] < again.log[0]["loss"]
    assert accuracy(again.mean, data(300)) > 0.5, "of three classes"


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, TrainConfig(epochs=2, batch=16, holdout=8, precision="float32"))
    with torch.no_grad():
        run.model.head.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 1, step 0: lower \[train\] rate; .* the state of epoch 0"):
        run.run()


def test_the_papers_recipe() -> None:
    """Swin-T at 224 pixels and the training of the published code: rate 1e-4 to 1e-5, 300 epochs of which 20 warm up, ..."""
    model, train = PAPER.model, PAPER.train
    assert (model.image_size, model.embedding, model.depths, model.heads, model.window) == (224, 96, (2, 2, 6, 2),
                                                                                            (3, 6, 12, 24), 7)
    assert (train.epochs, train.warmup_epochs, train.weight_decay, train.clip, train.label_smoothing) == (300, 20, 0.05, 5.0, 0.1)
    assert (train.drop_path, train.randaugment_ops, train.randaugment_magnitude) == (0.2, 2, 9.0)
    assert (train.mixup, train.cutmix, train.erasing, train.teacher) == (0.8, 1.0, 0.25, "pretrain")
    assert rate_at(train, 20 * 100, 100) == pytest.approx(1e-4)
    assert rate_at(train, 300 * 100, 100) == pytest.approx(1e-5)
    assert PAPER.masking.ratio_of("fc2", "s2.b5") == 0.75


def test_one_step_of_the_papers_recipe_at_a_tiny_shape(tmp_path: Path) -> None:
    """All options on; the pixels are replicated to the network's size, as 32 to 224."""
    checkpoint.save(tmp_path / "t.safetensors", MST(dataclasses.replace(SHAPE, image_size=16), MaskingConfig()), {})
    config = dataclasses.replace(PAPER, model=dataclasses.replace(SHAPE, image_size=16),
                                 train=dataclasses.replace(PAPER.train, batch=16, holdout=8, crop_pad=2))
    run = Trainer(config, data(), tmp_path, compiled=False, teacher=Teacher.load(tmp_path / "t.safetensors", config.model))
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    loss = run.step(torch.arange(16), 0, 1e-3, torch.Generator().manual_seed(1))
    assert math.isfinite(loss)
    for name, parameter in run.model.named_parameters():
        assert not torch.equal(parameter, before[name]), f"{name} has not learnt"
