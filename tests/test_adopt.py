"""The authors' network as one of ours: the same logits, a training that starts from it, and the way to integers."""
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import reference_states as states
import torch
from data_files import write_cifar

from hwgen.inputs import machine_of
from hwgen.program import compile_network, sized
from model import checkpoint
from model.__main__ import main as model_main
from model.config import Config, ConfigError, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig, load
from model.data import Images
from model.mst import MST
from model.neuron import Engine
from model.reference import ReferenceModelError, from_state_dict
from model.reference.adopt import ON_CHIP, adopted, config_text
from model.reference.files import save as save_reference
from model.start import begin
from model.train import Trainer
from quantize.__main__ import main as quantize_main
from quantize.network import load as load_network
from quantize.random_network import random_network

torch.set_num_threads(1)
SMALL = ModelConfig(32, 3, 10, 4, 16, (1, 1), (1, 2), 4, 2.0, 7)
CASES: dict[str, dict[str, Any]] = {
    "shifted windows, MLP norms": dict(seed=1),
    "odd windows, no MLP norms, no qkv bias": dict(
        seed=2, image=24, embedding=4, depths=(2, 2, 1), heads=(1, 2, 4), window=3, mlp_norm=False, qkv_bias=False),
    "patch of 4, one channel": dict(seed=3, image=32, channels=1, classes=7, patch=4, depths=(2, 1), heads=(1, 2), ratio=4.0)}


@pytest.mark.parametrize("levels", [15, 7])
@pytest.mark.parametrize("name", CASES)
def test_the_adopted_network_computes_the_same(name: str, levels: int) -> None:
    case = CASES[name]
    image, channels, classes = case.get("image", 16), case.get("channels", 3), case.get("classes", 5)
    state = states.random_state(**case)
    theirs = from_state_dict(state, image, classes, levels=levels)
    ours, images = adopted(theirs, levels), states.random_images(9, 2, image, channels)
    assert (theirs.logits(images) - ours.logits(images)).abs().max() < 1e-9
    steps = theirs.logits(images, "stepwise", 6)
    assert (steps - ours.logits(images, "stepwise", 6)).abs().max() < 1e-9 and steps.std() > 0.1
    assert (from_state_dict(state, image, classes).logits(images) - ours.logits(images)).abs().max() > 1e-3, "L is not 16"


@pytest.mark.parametrize("scale", [0.9, 0.05])
def test_another_factor_of_the_scores_goes_into_q(scale: float) -> None:
    state, images = states.random_state(seed=1), states.random_images(9, 2, 16, 3)
    theirs = from_state_dict(state, 16, levels=15, qk_scale=scale)
    ours = adopted(theirs, 15)
    assert (theirs.logits(images) - ours.logits(images)).abs().max() < 1e-9
    assert (theirs.logits(images, "stepwise", 6) - ours.logits(images, "stepwise", 6)).abs().max() < 1e-9
    assert (from_state_dict(state, 16, levels=15).logits(images) - ours.logits(images)).abs().max() > 1e-3
    with pytest.raises(ReferenceModelError, match="MODEL.MST.QK_SCALE = -1: q would need a negative threshold"):
        adopted(from_state_dict(state, 16, levels=15, qk_scale=-1.0), 15)


def test_an_adopted_network_keeps_the_authors_normalisation_and_its_masking_ratio(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CIFAR-100 has values of its own here; a network that was trained with CIFAR-10's sees the same pixels in training."""
    reference = from_state_dict(states.random_state(seed=1, classes=100, dtype=torch.float32), 16, 100)
    save_reference(tmp_path / "r.safetensors", reference, {"config": {}, "mask_ratio": 0.3})
    assert model_main(["adopt", str(tmp_path / "r.safetensors"), "-o", str(tmp_path / "own.toml"), "--dataset", "cifar100"]) == 0
    assert "[masking] ratio = 0.300781: the checkpoint's 0.3, to the nearest multiple of 1/256" in capsys.readouterr().out
    assert load(tmp_path / "own.toml").masking.ratio == 77 / 256
    start = tmp_path / "own.start.safetensors"
    source, info = checkpoint.load(start)
    assert source.mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465]) and info["dataset"] == "cifar100"
    own = MST(dataclasses.replace(source.config, final_norm="batch"), MaskingConfig())
    own.mean.fill_(0.3)
    own.std.fill_(0.1)
    raw = torch.randint(256, (32, 3, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    begin(own, start, own.normalise(raw))
    assert torch.equal(own.mean, source.mean) and torch.equal(own.std, source.std)
    same = MST(own.config, MaskingConfig())
    same.mean.copy_(source.mean)
    same.std.copy_(source.std)
    begin(same, start, same.normalise(raw))
    assert torch.allclose(own.norm.running_mean, same.norm.running_mean, atol=1e-4), "the moments are of the same pixels"


@pytest.mark.parametrize("key", ["layers.0.blocks.0.attn.attn_v_if.up", "layers.0.downsample.reduction_if.up", "head.bias",
                                 "patch_embed.proj.weight", "layers.1.blocks.0.mlp.norm2.running_var"])
def test_every_part_matters(key: str) -> None:
    state = states.random_state(seed=1)
    images, theirs = states.random_images(9, 2, 16, 3), from_state_dict(state, 16, levels=15)
    state[key] = state[key] * 1.5
    assert (theirs.logits(images) - adopted(from_state_dict(state, 16, levels=15), 15).logits(images)).abs().max() > 1e-6


def test_what_has_no_form_is_refused() -> None:
    state = states.random_state(seed=1)
    with pytest.raises(ReferenceModelError, match=r"levels must be 2\^b - 1 \(1, 3, 7 or 15\), not 16"):
        adopted(from_state_dict(state, 16), 16)
    state["layers.1.blocks.0.mlp.fc1_if.up"] = torch.tensor([-1.0])
    with pytest.raises(ReferenceModelError, match=r"layers.1.blocks.0.mlp.fc1_if.up is -1: a neuron of ours needs a positive"):
        adopted(from_state_dict(state, 16), 15)


def test_a_training_starts_from_the_weights(tmp_path: Path) -> None:
    """All but the norm before the head is the checkpoint's; that BatchNorm gives each channel the LayerNorm's moments."""
    source = adopted(from_state_dict(states.random_state(seed=1, dtype=torch.float32), 16, levels=15), 15)
    path = tmp_path / "start.safetensors"
    checkpoint.save(path, source, {})
    own = MST(dataclasses.replace(source.config, final_norm="batch"), MaskingConfig())
    own.mean.fill_(0.3)
    images = states.random_images(4, 32, 16, 3).float()
    begin(own, path, images)
    theirs, state = source.state_dict(), own.state_dict()
    assert all(torch.equal(state[name], theirs[name]) for name in theirs if name != "mean" and not name.startswith("norm."))
    assert torch.equal(state["mean"], torch.full((3,), 0.3)), "pixels are normalised as the data set of this training"
    seen: dict[str, torch.Tensor] = {}
    for name, model in (("layer", source), ("batch", own.eval())):
        hook = model.norm.register_forward_hook(lambda _, __, made, name=name: seen.update({name: made}))
        model.run(images, Engine(None))
        hook.remove()
    alive = own.norm.running_var > 1e-3  # eps decides elsewhere
    for moment in (torch.mean, torch.std):
        assert torch.allclose(moment(seen["layer"], 0)[alive], moment(seen["batch"], 0)[alive], rtol=0.01, atol=1e-3)
    assert int(alive.sum()) > 10
    assert not torch.allclose(seen["layer"], seen["batch"], atol=1e-3)
    with pytest.raises(ConfigError, match=r"start.safetensors: \[train\] start has levels = 15, the configuration says 7"):
        begin(MST(dataclasses.replace(own.config, levels=7), MaskingConfig()), path, images)


def test_a_run_with_a_start_can_be_resumed_and_one_without_keeps_its_identity(tmp_path: Path) -> None:
    source = adopted(from_state_dict(states.random_state(seed=1, dtype=torch.float32), 16, levels=15), 15)
    path = tmp_path / "start.safetensors"
    checkpoint.save(path, source, {})
    random = torch.Generator().manual_seed(2)
    data = Images(torch.randint(256, (24, 3, 16, 16), generator=random).to(torch.uint8),
                  torch.randint(5, (24,), generator=random))
    settings = TrainConfig(epochs=2, batch=8, warmup_epochs=0, holdout=8, start=str(path), precision="float32", rate=1e-4)
    model = dataclasses.replace(source.config, final_norm="batch")
    config = Config("tiny", model, MaskingConfig(), settings, QuantizeConfig(), {})
    first = Trainer(config, data, tmp_path / "run", compiled=False)
    assert torch.equal(first.model.head.weight, source.head.weight) and torch.equal(first.mean.head.weight, source.head.weight)
    first.run(1)
    path.unlink()  # a run that goes on needs it no more
    again = Trainer(config, data, tmp_path / "run", compiled=False)
    assert again.epoch == 1 and not torch.equal(again.model.head.weight, source.head.weight)
    without = dataclasses.replace(config, train=dataclasses.replace(settings, start=""))
    plain = Trainer(without, data, tmp_path / "other", compiled=False)
    assert '"start"' not in plain.identity() and str(path) in again.identity()


def test_from_a_checkpoint_to_integers(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """import, adopt, one epoch with the teacher, export: the commands as docs/reference.md prints them."""
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "data")
    state = states.random_state(seed=1, image=32, patch=4, classes=10, dtype=torch.float32)
    torch.save({"model": state, "config": {"DATA": {"IMG_SIZE": 32}}}, "best.pth")
    assert model_main(["import", "best.pth", "-o", "mst.safetensors"]) == 0
    assert "its way there: python -m model adopt mst.safetensors" in capsys.readouterr().out
    adopt = ["adopt", "mst.safetensors", "--dataset", "cifar10", "-o", "own.toml"]
    assert model_main([*adopt[:3], "cifar100", *adopt[4:]]) == 2, "a set of other classes than the network's"
    assert "--dataset cifar100 has 100 classes, the network 10: name the data set" in capsys.readouterr().err
    assert model_main(adopt) == 0
    assert "own.toml: next, python -m model train --config own.toml" in capsys.readouterr().out
    table = tomllib.loads(Path("own.toml").read_text())
    assert table["train"]["start"] == table["train"]["teacher"] == "own.start.safetensors" and "final_norm" not in table["model"]
    assert load("own.toml").model == dataclasses.replace(checkpoint.load("own.start.safetensors")[0].config, final_norm="batch")
    assert model_main(adopt) == 2 and "own.toml: is there already" in capsys.readouterr().err
    for change, says in (([*adopt[:-1], "own.json"], "give one that ends in .toml"),
                         ([*adopt[:3], "fashion_mnist", "-o", "b.toml"], "has 1 channels, the network takes 3"),
                         ([*adopt[:3], "mnist", "-o", "b.toml"], "unknown data set 'mnist'"),
                         ([*adopt, "--levels", "16"], "own.toml: is there already"),
                         ([*adopt[:-1], "b.toml", "--levels", "16"], "levels must be 2^b - 1")):
        assert model_main(change) == 2 and says in capsys.readouterr().err
        assert not Path("b.toml").exists() and not Path("b.start.safetensors").exists()
    Path("own.toml").write_text(Path("own.toml").read_text().replace("epochs = 10", "epochs = 1\nholdout = 3\nbatch = 4").replace(
        "warmup_epochs = 1", "warmup_epochs = 0"))
    assert model_main(["train", "--config", "own.toml", "--data", "data", "--threads", "1", "--no-compile", "--float32"]) == 0
    assert quantize_main(["export", "--config", "own.toml"]) == 0
    network = load_network("own.mstn")
    assert network.model.levels == 15 and len(network.layers) == 1 + 5 * 3 + 1 + 1


def test_a_large_network_gets_a_machine_that_can_be_built(tmp_path: Path) -> None:
    """The authors' Swin-T with L = 15 compiles for what `adopt` writes, with memories of a chip's size; a small one stays."""
    shape = ModelConfig(224, 3, 1000, 4, 96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 4.0, 15)
    machines = {}
    for name, model, weights in (("large", shape, 28_000_000), ("small", SMALL, ON_CHIP)):
        file = tmp_path / f"{name}.toml"
        file.write_text(config_text(model, source="x", path=str(file), dataset="imagenet", start="x.start.safetensors",
                                    weights=weights))
        machines[name] = machine_of(load(file))
        assert load(file).model == dataclasses.replace(model, final_norm="batch")
    assert machines["small"].memory_bits == 0
    program = compile_network(random_network(shape, 1), machines["large"], MaskingConfig())
    depths = sized(program.machine, program)
    assert depths.memory_bits == 512 and max(depths.weight_rows, depths.spike_words, depths.stream_words) <= 1 << 14


def test_start_and_teacher_are_found_from_the_configuration_s_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder, too; a name that leads nowhere says where it was looked for."""
    write_cifar(tmp_path / "data")
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    state = states.random_state(seed=1, image=32, patch=4, classes=10, dtype=torch.float32)
    torch.save({"model": state, "config": {"DATA": {"IMG_SIZE": 32}}}, place / "best.pth")
    monkeypatch.chdir(tmp_path)
    assert model_main(["import", "deep/er/best.pth", "-o", "deep/mst.safetensors"]) == 0
    assert model_main(["adopt", "deep/mst.safetensors", "--dataset", "cifar10", "-o", "deep/er/own.toml"]) == 0
    text = (place / "own.toml").read_text().replace("epochs = 10", "epochs = 1\nbatch = 4\nholdout = 3\nprecision = 'float32'")
    (place / "own.toml").write_text(text)
    monkeypatch.chdir(place.parent)
    train = ["train", "--data", str(tmp_path / "data"), "--no-compile", "--config"]
    assert model_main([*train, "er/own.toml"]) == 0
    assert (place / "own.safetensors").is_file()
    for key in ("start", "teacher"):
        (place / "bad.toml").write_text(text.replace(f'{key} = "own', f'{key} = "er/own'))
        capsys.readouterr()
        assert model_main([*train, "er/bad.toml"]) == 2
        assert f'er/bad.toml: [train] {key} = "er/own.start.safetensors": no file er/er/own.start.safetensors: such names ' \
            "start from the configuration's folder" in capsys.readouterr().err
