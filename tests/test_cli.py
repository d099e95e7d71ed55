"""The commands as a user meets them: one clear line on stderr and exit code 2, nothing lost."""
import re
from pathlib import Path

import numpy as np
import pytest

from hwgen.__main__ import main as hwgen_main
from hwgen.files import claimed
from sim.__main__ import main as sim_main

CONFIG = """
[model]
image_size = 8
in_channels = 3
classes = 5
patch = 2
embedding = 16
depths = [1]
heads = [1]
window = 2
mlp_ratio = 2.0
levels = 7
[masking]
sites = "paper"
[machine]
lanes = 8
fire_lanes = 4
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "net.toml"
    path.write_text(CONFIG)
    return path


def refused(capsys: pytest.CaptureFixture[str], code: int) -> str:
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error
    assert "\n" not in error, "one line"
    assert "Traceback" not in error
    return error


def test_a_missing_network_file_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "net.mstn" in refused(capsys, sim_main(["run", "--config", str(config), "--images", "1"]))
    assert "net.mstn" in refused(capsys, hwgen_main(["emit", "--config", str(config)]))


def test_a_foreign_network_file_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path("configs/cifar10-tiny.mstn").resolve()
    said = refused(capsys, sim_main(["run", "--config", str(config), "--network", str(other)]))
    assert "differs from [model]" in said
    assert "make quantize" in said
    assert "differs from [model]" in refused(capsys, hwgen_main(["emit", "--config", str(config), "--network", str(other)]))


def test_a_truncated_and_a_corrupted_network_file_are_refused(config: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    good = Path("configs/cifar10-tiny.mstn").read_bytes()
    for name, data in (("short", good[:1000]), ("flipped", good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]),
                       ("foreign", b"PK\x03\x04" + good[4:])):
        file = tmp_path / f"{name}.mstn"
        file.write_bytes(data)
        said = refused(capsys, hwgen_main(["emit", "--config", "configs/cifar10-tiny.toml", "--network", str(file),
                                           "-o", str(tmp_path / "out")]))
        assert str(file) in said
        assert not (tmp_path / "out").exists(), "a refusal writes nothing"


def test_a_machine_too_small_says_which_memory_how_much_and_which_knob(config: Path, tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(CONFIG + "weight_rows = 10\n")
    said = refused(capsys, hwgen_main(["emit", "--config", str(config), "--random-weights", "1", "-o", str(tmp_path / "out")]))
    assert "weight_rows: the network needs" in said
    assert "set [machine] weight_rows =" in said


@pytest.mark.parametrize(("arrays", "message"), [
    ({"images": np.zeros((2, 8, 8, 3), np.float32), "labels": np.zeros(2, np.int64)}, "float32"),
    ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2, np.int64)}, "[2, 8, 8]"),
    ({"images": np.zeros((2, 8, 8, 3), np.uint8), "labels": np.zeros(3, np.int64)}, "labels"),
    ({"pictures": np.zeros((2, 8, 8, 3), np.uint8)}, "not an .npz file with `images` and `labels`"),
    ({"images": np.array([None, 1], object), "labels": np.zeros(2, np.int64)}, "not an .npz file"),
    ({"images": np.zeros((2, 12, 12, 3), np.uint8), "labels": np.zeros(2, np.int64)}, "takes uint8 [B, 8, 8, 3]"),
    ({"images": np.zeros((2, 8, 8, 1), np.uint8), "labels": np.zeros(2, np.int64)}, "takes uint8 [B, 8, 8, 3]"),
])
def test_wrong_images_are_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                  arrays: dict[str, np.ndarray], message: str) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, **arrays)
    said = refused(capsys, sim_main(["golden", "--config", str(config), "--random-weights", "1", "--images", "2",
                                     "--images-file", str(file)]))
    assert message in said


@pytest.mark.parametrize("kind", ["a single array", "text", "nothing"])
def test_files_that_are_no_npz_are_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    file = tmp_path / "images.npz"
    if kind == "a single array":
        with file.open("wb") as out:
            np.save(out, np.zeros((2, 8, 8, 3), np.uint8))
    else:
        file.write_text("# images" * (kind == "text"))
    said = refused(capsys, sim_main(["golden", "--config", str(config), "--random-weights", "1", "--images-file", str(file)]))
    assert said == f"{file}: not an .npz file with `images` and `labels` (File is not a zip file)"


@pytest.mark.parametrize("command", ["run", "single"])
def test_two_runs_in_one_folder_do_not_meet(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            command: str) -> None:
    build = tmp_path / "build"
    arguments = [command, "--config", str(config), "--random-weights", "1", "--images", "1", "--build", str(build)]
    with claimed(build / "sim"):
        said = refused(capsys, sim_main(arguments))
        assert said == f"{build / 'sim'}: another run is at work there: wait for its end, or name another folder"
        assert [path.name for path in build.rglob("*")] == ["sim", ".lock"], "nothing was written"
    with claimed(build / "sim"):
        pass


def test_counts_of_images_are_checked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at least 1, not 0" in refused(capsys, sim_main(["golden", "--config", str(config), "--random-weights", "1",
                                                            "--images", "0"]))
    assert "holds 64 images, not 65" in refused(capsys, sim_main(["golden", "--config", "configs/cifar10-tiny.toml",
                                                                  "--images", "65"]))


def test_an_error_of_the_machine_names_the_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("[machine]", "[machine]\nqueue_depth = 0"))
    for main in (sim_main, hwgen_main):
        command = ["run" if main is sim_main else "emit", "--config", str(config), "--random-weights", "1"]
        assert refused(capsys, main(command)).startswith(f"{config}: [machine] queue_depth must be ")


def test_an_impossible_mask_ratio_is_refused(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ratio, said in (("1.5", "multiple of 1/256 in [0, 1), not 1.5; nearest: 0.99609375"), ("nan", "not nan"),
                        ("0.1", "multiple of 1/256 in [0, 1), not 0.1; nearest: 0.1015625")):
        assert said in refused(capsys, sim_main(["golden", "--config", str(config), "--random-weights", "1", "--mask", ratio]))


@pytest.mark.parametrize(("model", "sites", "wanted"), [("", "none", "paper"), ("", "conv", "paper"), ("kind", "paper", "conv")])
def test_a_mask_ratio_that_would_mask_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str,
                                                         sites: str, wanted: str) -> None:
    text = Path("configs/vgg-tiny.toml" if model else "configs/cifar10-tiny.toml").read_text(encoding="utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(re.sub(r'sites = "\w+"', f'sites = "{sites}"', text), encoding="utf-8")
    said = refused(capsys, sim_main(["golden", "--config", str(file), "--random-weights", "1", "--images", "1", "--mask", "0.5"]))
    assert said == f'a mask ratio of 0.5 would mask nothing here: set [masking] sites, such as sites = "{wanted}"'


def test_what_a_missing_network_asks_for(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, sim_main(["golden", "--config", str(config)]))
    assert said.endswith(f"no such network file; make it with `make quantize CONFIG={config}`, let the configuration "
                         'say whose it takes (network = "OTHER.mstn" as its first line), or take --random-weights SEED')


def test_trained_activity_is_of_random_weights(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "goes with --random-weights" in refused(capsys, sim_main(["golden", "--config", str(config), "--trained-activity"]))


def test_a_missing_simulator_says_how_to_get_it(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = refused(capsys, sim_main(["run", "--config", str(config), "--random-weights", "1", "--sim", "icarus",
                                     "--images", "1", "--build", str(tmp_path / "out")]))
    assert "icarus" in said.lower()
    assert "install" in said


def test_an_unknown_simulator_is_refused(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "modelsim" in refused(capsys, sim_main(["run", "--config", str(config), "--random-weights", "1", "--sim", "modelsim",
                                                   "--images", "1", "--build", str(tmp_path / "out")]))


def test_golden_classifies_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert sim_main(["golden", "--config", "configs/cifar10-tiny.toml", "--images", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count("class") == 4
    assert "/4 correct" in out
