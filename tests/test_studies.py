"""The paper's studies: tables and figures hold what was measured, masks act where they are said to, bad input is one line."""
import csv
import io
import struct
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest

from model.masking import SpikeMask, mask_rows
from quantize.layers import Attention
from sim.golden.attention import geometry, heads_of
from sim.golden.network import run
from sim.studies import chart
from sim.studies.__main__ import STUDIES, main
from sim.studies.block_mask import BlockMask
from sim.studies.masking import RATIOS
from sim.studies.setting import open_setting
from sim.studies.table import Table

CONFIG = Path("configs/cifar10-tiny.toml")
IMAGES = 4


@pytest.fixture(scope="module")
def setting():
    """The committed network on its first sample images."""
    return open_setting(CONFIG, images=IMAGES, sample=True, data=None, network=None, checkpoint=None, command="test")


def read(folder: Path, name: str) -> list[dict[str, str]]:
    """A written table, and its figure parsed as XML."""
    ET.parse(folder / f"cifar10-tiny-{name}.svg")
    return list(csv.DictReader(io.StringIO((folder / f"cifar10-tiny-{name}.csv").read_text(encoding="utf-8"))))


def run_study(name: str, folder: Path, *more: str) -> list[dict[str, str]]:
    """One study on the committed sample."""
    assert main([name, "--config", str(CONFIG), "--sample", "--images", str(IMAGES), "--output", str(folder), *more]) == 0
    return read(folder, name)


def test_masking_table_is_what_the_golden_says(tmp_path: Path, setting) -> None:
    rows = run_study("masking", tmp_path)
    assert [(row["masked"], float(row["ratio"])) for row in rows] == [
        (place, ratio) for place in ("attention", "MLP", "both") for ratio in RATIOS]
    for row in rows:
        if float(row["ratio"]) in (0.0, 0.5) and row["masked"] == "both":
            mask = SpikeMask(setting.config.masking.seed, dict.fromkeys(("q", "k", "scores", "fc1", "fc2"),
                                                                         round(float(row["ratio"]) * 256)))
            right = (run(setting.network, setting.images, mask=mask, keep=False).classes == setting.labels).mean()
            assert float(row["accuracy"]) == right
    cycles = {row["masked"]: [float(other["cycles"]) for other in rows if other["masked"] == row["masked"]] for row in rows}
    assert cycles["MLP"][-1] < cycles["MLP"][5] < cycles["MLP"][0] == cycles["both"][0]
    alone = next(row for row in rows if row["masked"] == "MLP" and row["ratio"] == "0.9")
    assert float(alone["SOPs of MLPs"]) < -0.8 and abs(float(alone["SOPs of attention"])) < 0.1


def test_rates_are_counts_over_levels(tmp_path: Path, setting) -> None:
    rows = {row["layer"]: row for row in run_study("rates", tmp_path)}
    trace = run(setting.network, setting.images)
    q = trace.outputs["s0.b0.qkv"]["counts"][..., :32]
    assert float(rows["s0.b0.qkv.q"]["firing rate"]) == pytest.approx(q.mean() / 7, rel=1e-12)
    assert float(rows["s0.b0.qkv.q"]["neurons that fire"]) == (q > 0).mean()
    assert int(rows["s0.b0.attn.scores"]["neurons"]) == trace.scores["s0.b0.attn"][0].size


def test_a_block_mask_masks_that_block_and_site_alone(setting) -> None:
    model, seed = setting.config.model, setting.config.masking.seed
    plain = run(setting.network, setting.images)
    mask = BlockMask.of_blocks(model, seed, {("s1.b0", "fc2"): 128})
    masked = run(setting.network, setting.images, mask=mask)
    layers = [layer.name for layer in setting.network.layers]
    for name in layers[:layers.index("s1.b0.fc1")]:
        for what, found in plain.outputs[name].items():
            assert np.array_equal(found, masked.outputs[name][what])
    kept = SpikeMask(seed, {"fc2": 128}).keep("fc2", np.arange(IMAGES), mask_rows(model)["s1.b0"].fc2, 64, 128)
    assert kept is not None and 0.4 < kept.mean() < 0.6
    assert np.array_equal(masked.outputs["s1.b0.fc1"]["counts"], plain.outputs["s1.b0.fc1"]["counts"] * kept)
    assert not masked.before.keys() - {"s1.b0.fc2"}
    for wrong in ({("s9.b0", "q"): 1}, {("s0.b0", "nose"): 1}, {("s0.b0", "q"): 256}):
        with pytest.raises(ValueError, match=r"nose|s9|256"):
            BlockMask.of_blocks(model, seed, wrong)


def test_sensitivity_names_every_site(tmp_path: Path) -> None:
    rows = run_study("sensitivity", tmp_path)
    assert len(rows) == 25 and rows[0]["site"] == "s0.b0.q"
    assert max(float(row["energy saved"]) for row in rows) > 0.01


def test_the_search_takes_the_cheapest_step() -> None:
    from sim.studies.search import NOTCHES, cheapest
    a, b = ("s0.b0", "fc1"), ("s0.b0", "fc2")
    loss = {(site, notch): 0.0 for site in (a, b) for notch in NOTCHES}
    saving = {(site, notch): 0.0 for site in (a, b) for notch in NOTCHES}
    assert cheapest(loss, saving, {a: 0, b: 0}) is None  # nothing saves anything
    loss |= {(a, 64): 0.02, (b, 64): 0.01}
    saving |= {(a, 64): 0.05, (b, 64): 0.01}
    assert cheapest(loss, saving, {a: 0, b: 0}) == a
    saving[b, 64] = 0.04
    assert cheapest(loss, saving, {a: 0, b: 0}) == b
    assert cheapest(loss, saving, {a: 0, b: len(NOTCHES) - 1}) == a


def test_search_keeps_to_its_budgets(tmp_path: Path, setting, monkeypatch: pytest.MonkeyPatch) -> None:
    from sim.studies import search
    monkeypatch.setattr(search, "BUDGETS", (0.97, 0.9))
    monkeypatch.setattr(search, "NOTCHES", (0, 192))
    table, figure = search.study(setting, setting)
    ET.fromstring(figure)
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    searched = [row for row in found if row["ratios"] == "searched"]
    assert [row["budget"] for row in searched] == [0.97, 0.9]
    assert all(row["energy"] <= row["budget"] < 1 and "=0.75" in row["per site"] for row in searched)
    with pytest.raises(ValueError, match="--held-out must be 1 to 2000"):
        search.held_out(setting, 0, None)


def test_steps_end_at_the_qcfs_network(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see the note on torch in `make help`")
    found = {(row["mode"], row["T"]): float(row["accuracy"]) for row in run_study("steps", tmp_path)}
    assert found["exact", "7"] == found["qcfs", ""]
    assert {t for mode, t in found if mode == "stepwise"} == {"1", "2", "4", "8", "16", "32", "64"}


def test_attention_maps(tmp_path: Path, setting) -> None:
    pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see the note on torch in `make help`")
    from sim.studies.attention import integer_weights, received
    rows = run_study("attention", tmp_path, "--image", "1")
    assert float(rows[0]["correlation with the unmasked QCFS map"]) == pytest.approx(1)
    layer = next(layer for layer in setting.network.layers if isinstance(layer, Attention) and layer.shift)
    trace = run(setting.network, setting.images[:1])
    weights = integer_weights(layer, trace.scores[layer.name][0], 7)
    where = geometry(layer)
    assert not weights[~np.broadcast_to(where.allowed[:, None], weights.shape)].any()
    # by hand: one window, head and query
    window, head, query = 3, 1, 2
    a = trace.scores[layer.name][0, window, head, query]
    num = layer.rom_num[head, where.relative[query], a] * where.allowed[window, query]
    den = layer.rom_den[head, where.relative[query], a] * where.allowed[window, query]
    assert np.allclose(weights[window, head, query], num / den.sum())
    assert received(layer, weights).sum() == pytest.approx(len(where.token) * weights.mean(axis=(1, 2)).sum(axis=1).mean())
    assert heads_of(trace.inputs[layer.name], layer, where)[0].shape[1] == len(where.token)


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MST_DATA", str(tmp_path))
    for given, wanted in ((["--images", "3"], "no such folder"), (["--sample", "--images", "65"], "holds 64 images"),
                          (["--sample", "--network", str(tmp_path / "none.mstn")], "no such network file")):
        assert main(["rates", "--config", str(CONFIG), "--output", str(tmp_path), *given]) == 2
        error = capsys.readouterr().err
        assert wanted in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.csv"))
    with pytest.raises(SystemExit):
        main(["colours", "--config", str(CONFIG)])
    assert set(STUDIES) >= {"steps", "masking", "sensitivity", "rates", "attention"}


def test_charts_draw_what_they_are_given() -> None:
    svg = ET.fromstring(chart.lines("t", "x", "y", {"a": [(1, 0.0), (2, 0.5)]}))
    points = next(e for e in svg.iter() if e.tag.endswith("polyline")).attrib["points"].split()
    (_, low), (_, high) = (tuple(map(float, point.split(","))) for point in points)
    assert low - high == chart.HEIGHT  # 0.5 is the roof
    name = "a name of more than twenty-two letters, ratio 0.5"
    svg = ET.fromstring(chart.lines("t", "x", "y", {"a": [(1, 0.0)], name: [(1, 0.5)]}))
    left = next(float(e.attrib["x"]) for e in svg.iter() if e.text == name)
    assert float(svg.attrib["width"]) >= left + 6 * len(name), "the legend lies within the picture"
    widths = [float(e.attrib["width"]) for e in ET.fromstring(chart.bars("t", ["p", "q"], {"a": [1.0, 0.5]})).iter()
              if e.tag.endswith("rect") and e.attrib.get("x") == str(chart.BAR_LEFT)]
    assert widths == [chart.BAR_WIDTH, chart.BAR_WIDTH / 2]
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    packed = chart.png(pixels)
    size = struct.unpack(">I", packed[33:37])[0]
    rows = zlib.decompress(packed[41:41 + size])
    assert struct.unpack(">II", packed[16:24]) == (3, 2) and rows == b"\0" + bytes(range(9)) + b"\0" + bytes(range(9, 18))
    for wrong in (lambda: chart.lines("t", "x", "y", {}), lambda: chart.lines("t", "x", "y", {"a": [(0, 1)]}, log=True),
                  lambda: chart.bars("t", ["p"], {"a": []}), lambda: chart.grid("t", ["c"], ["r"], [])):
        with pytest.raises(ValueError, match="t: "):
            wrong()
    with pytest.raises(ValueError, match="1 cells under 2"):
        Table("t", ["a", "b"], [[1]])




def test_step_sops_are_counted_by_hand(setting) -> None:
    """One step of one image: SOPs of a GEMM and of attention against plain loops."""
    pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see the note on torch in `make help`")
    from sim.golden.stepwise import run_stepwise
    from sim.studies.direct import step_sops
    network = setting.network
    trace = run_stepwise(network, setting.images[:1], 1, keep=True).steps[0]
    wanted = 0
    for layer in network.layers:
        values = trace.inputs[layer.name][0]
        if isinstance(layer, Attention):
            where = geometry(layer)
            q, k, v = (part[0] for part in heads_of(values[None], layer, where))
            for window, head in np.ndindex(q.shape[:2]):
                for i in range(q.shape[2]):
                    wanted += int((q[window, head, i] & k[window, head]).sum())
                    wanted += int(v[window, head][where.allowed[window, i]].sum())
        else:
            bits = values.astype(np.int64) & (1 << layer.in_bits) - 1
            wanted += sum(int(value).bit_count() for value in bits.ravel()) * layer.outputs
    assert step_sops(network, trace) == wanted
