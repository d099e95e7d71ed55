"""Energy columns against hand arithmetic, and every complaint about a bad file of constants."""
import re
from pathlib import Path

import pytest

from sim.energy import COLUMNS, CONSTANTS, EnergyError, break_even, energy, load
from sim.ops import LayerOps, Macs

GOOD = CONSTANTS.read_text(encoding="utf-8")


def test_additions_scale_with_the_width() -> None:
    constants = load()
    assert [constants.add(bits) for bits in (4, 8, 20, 32, 64)] == pytest.approx([0.015, 0.03, 0.065, 0.1, 0.2])
    assert constants.additions({8: 10, 32: 3}) == pytest.approx(0.6)
    assert [constants.multiply(*bits) for bits in ((8, 8), (3, 8), (0, 0))] == pytest.approx([0.2, 0.075, 0])


def test_memory_accesses_scale_with_the_capacity() -> None:
    constants = load()
    kilobyte = 8192
    published = [constants.access(size * kilobyte) * 64 for size in (8, 32, 1024)]
    assert published == pytest.approx([10, 20, 100])
    assert constants.access(kilobyte // 2) * 64 == 10, "nothing cheaper than the smallest published memory"
    assert constants.access(16 * kilobyte) * 64 == pytest.approx(10 * 2**0.5), "a power law between two of them"
    assert constants.access(4096 * kilobyte) * 64 > 150
    sizes = [constants.access(1 << bits) for bits in range(10, 30)]
    assert sizes == sorted(sizes)


def test_columns_by_hand() -> None:
    layer = LayerOps("fc1", "fc1", dense_macs=100, sops=50, additions={9: 20, 32: 30}, dense_additions={32: 300},
                     fire_additions={8: 10}, memory_bits={"weights": 640, "spikes": 64}, dense_weight_bits=6400,
                     macs=(Macs(4, 8, 32, 100), Macs(0, 0, 8, 5)))
    found = energy(layer, load(), {"weights": 8 * 8192, "spikes": 32 * 8192})
    snn = 20 * (0.03 + 0.07 / 24) + 3 + 0.3
    assert found == pytest.approx({
        "ann_float_proxy": 460, "snn_float_proxy": 45, "snn_integer": snn, "snn_integer_memory": snn + 100 + 20,
        "ann_serial_integer": 30.3, "ann_serial_integer_memory": 30.3 + 1000 + 20,
        "ann_multiplier_integer": 100 * 0.1 + 100 * 0.1 + 5 * 0.03 + 0.3})
    assert list(found) == list(COLUMNS)


def test_break_even() -> None:
    """Sums of 0.1 pJ each against 0.3 pJ a MAC: three SOPs per MAC would cost the same."""
    layer = LayerOps("fc1", "fc1", dense_macs=10, sops=20, additions={32: 20}, macs=(Macs(8, 8, 32, 10),))
    assert break_even([layer, LayerOps("image", "image")], load()) == pytest.approx((3, 2))
    assert break_even([LayerOps("image", "image")], load()) == (0, 0)


def test_constants_carry_their_sources() -> None:
    for entry in load().sources():
        assert "ISSCC 2014" in str(entry["source"]) and entry["unit"] == "pJ" and entry["technology"] == "45 nm"


def _without(table: str) -> str:
    return re.sub(rf"\[{table}\].*?(?=\n\[|\Z)", "", GOOD, flags=re.DOTALL)


@pytest.mark.parametrize(("text", "message"), [
    ("[float_mac", r"energy\.toml: not TOML"),
    ("float_mac = 3", r"\[float_mac\] must be a table, not 3"),
    (_without("float_ac"), r"lacks \[float_ac\]: add it with its source"),
    (GOOD.replace("value = 4.6", 'value = "4.6"'), r"\[float_mac\] value must be float, not '4\.6'"),
    (GOOD.replace("value = 4.6", "value = true"), r"\[float_mac\] value must be float, not True"),
    (GOOD.replace("value = 4.6", "value = -4.6"), r"\[float_mac\] value must be positive, not -4\.6"),
    (GOOD.replace("value = 4.6", "value = nan"), r"\[float_mac\] value must be positive, not nan"),
    (GOOD.replace("value = 4.6", "valeu = 4.6"), r"\[float_mac\] has no key 'valeu'; known: value, unit"),
    (GOOD.replace("value = 4.6\n", ""), r"\[float_mac\] lacks 'value'"),
    (GOOD.replace('unit = "pJ"', 'unit = "nJ"', 1), r"\[float_mac\] unit must be 'pJ', not 'nJ'"),
    (GOOD.replace("bits = 32", "bits = 16", 1), r"\[float_mac\] must be an operation of 32 bits, not 16"),
    (GOOD.replace("bits = 32", "bits = 32.5", 1), r"\[float_mac\] bits must be int, not 32\.5"),
    (re.sub('source = ".*"', 'source = ""', GOOD, count=1), r"\[float_mac\] source must be given, not ''"),
    (GOOD.replace("32768", "8192"), r"needs at least 2 memories of different capacity_bytes, not \[8192, 8192, 1048"),
])
def test_bad_constants_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "energy.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(EnergyError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_missing_constants_are_named(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match="no such file of energy constants"):
        load(tmp_path / "energy.toml")
