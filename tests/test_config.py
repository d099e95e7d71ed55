"""Configurations: every refusal names the file, the key, the value and the remedy."""
import dataclasses
import json
from pathlib import Path

import pytest

from model.config import SITE_SETS, ConfigError, load, read_masking

MODEL = {"image_size": 8, "in_channels": 3, "classes": 5, "patch": 2, "embedding": 16, "depths": [1, 1], "heads": [1, 2],
         "window": 2, "mlp_ratio": 2.0, "levels": 7}


def written(tmp_path: Path, model: dict[str, object] | None = None, rest: str = "") -> Path:
    def toml(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value)

    lines = [f"{key} = {toml(value)}" for key, value in (model or MODEL).items()]
    path = tmp_path / "net.toml"
    path.write_text("[model]\n" + "\n".join(lines) + "\n" + rest)
    return path


def test_a_good_file_is_typed(tmp_path: Path) -> None:
    config = load(written(tmp_path, rest="[masking]\nsites = 'paper'\nratio = 0.75\n[machine]\nlanes = 16\n"))
    assert config.name == "net"
    assert config.model.depths == (1, 1)
    assert config.model.planes == 3
    assert config.masking.sites == SITE_SETS["paper"]
    assert config.masking.ratio256 == 192
    assert config.machine == {"lanes": 16}


def test_the_default_configuration_is_what_the_readme_says() -> None:
    config = load("configs/cifar10-tiny.toml")
    assert (config.model.image_size, config.model.in_channels, config.model.planes) == (32, 3, 3)
    assert config.model.shift_of(0, 1) == 2
    assert config.model.shift_of(2, 0) == 0


@pytest.mark.parametrize(("change", "message"), [
    ({"image_size": 9}, "image_size 9 is not a multiple of patch 2"),
    ({"heads": [3, 2]}, "3 heads do not divide the 16 channels of stage 0"),
    ({"heads": [1]}, "heads has 1 stages and depths 2"),
    ({"levels": 8}, r"levels must be 2\^b - 1 \(1, 3, 7 or 15\), not 8"),
    ({"window": 3}, "window 3 does not divide the 4x4 tokens of stage 0"),
    ({"window": 1}, "window must be at least 2, not 1"),
    ({"depths": [0, 1]}, r"depths must be positive, not \[0, 1\]"),
    ({"depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1]}, "patch merging cannot halve"),
    ({"mlp_ratio": 0.3}, "mlp_ratio 0.3 gives 4.8 hidden channels in stage 0"),
    ({"mlp_ratio": -1}, "mlp_ratio must be positive, not -1.0"),
    ({"classes": 1}, "classes must be at least 2, not 1"),
    ({"in_channels": 0}, "in_channels must be at least 1, not 0"),
    ({"patch": 0}, "patch must be at least 1, not 0"),
    ({"embedding": "16"}, r"\[model\] embedding must be int, not '16'"),
    ({"embedding": True}, r"\[model\] embedding must be int, not True"),
    ({"depths": 2}, r"\[model\] depths must be a list of int, not 2"),
    ({"embeding": 16}, r"\[model\] has no key 'embeding'; known keys: image_size"),
])
def test_bad_models_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(written(tmp_path, MODEL | change))
    assert "net.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("rest", "message"), [
    ("[masking]\nratio = 1.0\n", r"ratio must be a multiple of 1/256 in \[0, 1\), not 1.0"),
    ("[masking]\nratio = 0.3\n", "not 0.3; nearest: 0.30078125"),
    ("[masking]\nsites = 'all'\n", "unknown set 'all'; known: none, published-code, paper"),
    ("[masking]\nsites = ['q', 'w']\n", "unknown site 'w'; known: q, k, scores, fc1, fc2"),
    ("[masking]\nseed = 4294967296\n", "seed must fit 32 bits, not 4294967296"),
    ("[quantize]\nweight_bits = 6\n", "weight_bits must be 4 or 8, not 6"),
    ("[quantize]\nrom_bits = 20\n", "rom_bits must be 6 to 16, not 20"),
    ("[quantize]\nstream_bits = 2\n", "stream_bits must be 4 to 12, not 2"),
    ("[engine]\nlanes = 3\n", r"unknown table \[engine\]; known: model, masking"),
    ("[masking\n", "not TOML"), ("[masking]\nratio = nan\n", r"ratio must be a finite number, not nan$"),
])
def test_bad_tables_are_refused(tmp_path: Path, rest: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, rest=rest))


def test_missing_keys_tables_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[model\] lacks 'levels': L, the largest spike count"):
        load(written(tmp_path, {key: value for key, value in MODEL.items() if key != "levels"}))
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match=r"lacks the table \[model\]"):
        load(tmp_path / "empty.toml")
    with pytest.raises(ConfigError, match="no such configuration file; see configs/"):
        load(tmp_path / "none.toml")
    (tmp_path / "bare.toml").write_text("image_size = 8\n[model]\n")
    with pytest.raises(ConfigError, match=r"bare.toml: image_size stands before any table: put it under one of \[model\]"):
        load(tmp_path / "bare.toml")


@pytest.mark.parametrize(("rest", "sites", "ratios"), [
    ("sites = {q = 0.5, fc1 = 0.75}", (), (("fc1", 0.75), ("q", 0.5))),
    ("sites = 'paper'\nratio = 0.5\n[masking.ratios]\nfc2 = 0.25\n's0.b0.q' = 0.125", SITE_SETS["paper"],
     (("fc2", 0.25), ("s0.b0.q", 0.125))),
    ("sites = []\n[masking.ratios]\ns1.b0.q = 0.5\ns1.b0.k = 0", (), (("s1.b0.k", 0.0), ("s1.b0.q", 0.5))),
    ("ratio = 0.5", SITE_SETS["published-code"], ()),
])
def test_mask_ratios_by_site_and_block(tmp_path: Path, rest: str, sites: tuple[str, ...],
                                       ratios: tuple[tuple[str, float], ...]) -> None:
    masking = load(written(tmp_path, rest=f"[masking]\n{rest}\n")).masking
    assert (masking.sites, masking.ratios) == (sites, ratios)
    assert masking.active
    assert read_masking(json.loads(json.dumps(dataclasses.asdict(masking)))) == masking


@pytest.mark.parametrize(("rest", "message"), [
    ("[masking]\nsites = {w = 0.5}\n", "unknown site 'w'"),
    ("[masking]\nsites = {q = 0.3}\n", r"q must be a multiple of 1/256 in \[0, 1\), not 0.3"),
    ("[masking]\nsites = {q = 0.5}\n[masking.ratios]\nq = 0.25\n", "q has a ratio under both sites and ratios: keep one"),
    ("[masking.ratios]\ns0.b5.q = 0.5\n", "ratios: no block of 's0.b5.q'; blocks: s0.b0, s1.b0"),
    ("[masking]\nratios = 3\n", "ratios must be a table of ratios by site, not 3"),
    ("[masking.ratios]\nq = 'half'\n", r"\[masking\] q must be float, not 'half'"),
    ("[train]\nepochs = 0\n", r"\[train\] epochs must be at least 1, not 0"),
    ("[train]\nseed = 4611686018427387904\n", r"\[train\] seed must be below 2\^32, not 4611686018427387904"),
    ("[train]\nrate = 0.0\n", r"\[train\] rate must be positive, not 0.0"),
    ("[train]\nmixup = -0.5\n", "mixup must be at least 0, not -0.5"),
    ("[train]\nerasing = 1.5\n", "erasing must be 0 to 1, not 1.5"),
    ("[train]\ndrop_path = 1.0\n", r"drop_path must be in \[0, 1\), not 1.0"),
    ("[train]\nprecision = 'half'\n", "precision must be auto or bfloat16 or float32 or float16, not 'half'"),
    ("[train]\nrandaugment_magnitude = 11\n", "randaugment_magnitude must be 0 to 10, not 11.0"),
    ("[train]\nrandaugment_ops = 20\n", "randaugment_ops must be 0 to 8, not 20"),
    ("[train]\nbatch = 5\n", r"batch must be at least two images for each of its 2 shards and .* \(or set shards = 1\), not 5"),
    ("[train]\nbatch = 2\n", "batch must be at least two images"),
    ("[train]\ntemperature = 0\n", "temperature must be positive, not 0.0"),
])
def test_bad_masks_and_recipes_are_refused(tmp_path: Path, rest: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load(written(tmp_path, rest=rest))
    assert "\n" not in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_a_configuration(tmp_path: Path) -> None:
    plain = written(tmp_path)
    marked = tmp_path / "marked.toml"
    marked.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
    assert load(marked).model == load(plain).model
