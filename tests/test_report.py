"""The report of a run: its keys, its tables, what is null when it is not known, and that equal runs write nothing."""
import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from hwgen.config import MachineConfig
from hwgen.emit import Build
from hwgen.files import digest
from hwgen.multipliers import OPERATORS_FILE
from hwgen.program import compile_network, sized
from hwgen.schedule import predict
from model.config import SITES, Config, MaskingConfig, ModelConfig, QuantizeConfig, TrainConfig
from model.masking import SpikeMask
from quantize.network import digest as network_digest
from quantize.random_network import random_images, random_network
from sim.golden.network import run as run_golden
from sim.report import ReportError, accuracy, picture, render_again, write_report
from sim.run import Outcome
from sim.verify import Verdict, stored

MODEL = ModelConfig(image_size=8, in_channels=1, classes=3, patch=2, embedding=8, depths=(1, 1), heads=(1, 2), window=2,
                    mlp_ratio=2.0, levels=3)
MACHINE = MachineConfig(lanes=8, fire_lanes=4, planes=2, head_lanes=8, window_tokens=4)
MASKING = MaskingConfig(sites=SITES, ratio=0.75)
CONFIG = Config("small", MODEL, MASKING, TrainConfig(), QuantizeConfig(), {})
NETWORK = random_network(MODEL, 4)
TRAINED = dataclasses.replace(NETWORK, notes={"accuracy": {"qcfs": 0.5, "integer": 0.25, "images": 1000}})
IMAGES = random_images(MODEL, 9, 3)
FILES = ("report.json", "report.md", "cycles.svg")


def an_outcome(folder: Path) -> Outcome:
    """What a passed run hands over, without the simulation: measured cycles equal the predicted ones."""
    program = compile_network(NETWORK, MACHINE, MASKING)
    program.machine = sized(MACHINE, program)
    mask = SpikeMask.of(MASKING)
    trace = run_golden(NETWORK, IMAGES, mask=mask)
    values = stored(trace, program, IMAGES)
    verdict = Verdict(len(IMAGES), len(program.layers))
    verdict.predicted = [predict(program, {name: found[index] for name, found in values.items()}) for index in range(3)]
    verdict.measured = [{layer.layer: layer.cycles for layer in image} for image in verdict.predicted]
    build = Build(program, program.machine, folder, "d" * 64, "b" * 64, True)
    return Outcome(verdict, build, trace, IMAGES, mask, MASKING)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Outcome, Path]:
    outcome = an_outcome(tmp_path)
    write_report(outcome, CONFIG, tmp_path)
    return outcome, tmp_path


def values_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_keys_and_means(written: tuple[Outcome, Path]) -> None:
    outcome, folder = written
    found = values_of(folder)
    verdict = outcome.verdict
    assert (found["config"], found["build_id"]) == ("small", "b" * 64)
    assert found["network"]["parameters"] == NETWORK.parameters > found["network"]["weights"] > 0
    assert (found["network"]["levels"], found["network"]["planes"]) == (3, 2)
    assert found["network"]["accuracy"] == {"qcfs": None, "exact": None, "exact_agreement": None,
                                             "integer": None, "stepwise": None, "images": None}
    rtl = found["rtl"]
    assert (rtl["images"], rtl["mismatches"], rtl["mask_ratio"], rtl["passed"]) == (3, 0, 0.75, True)
    assert rtl["cycles_per_image"] == pytest.approx(verdict.cycles_per_image)
    assert rtl["cycles_per_image"] == rtl["predicted_cycles_per_image"]
    assert [layer["name"] for layer in found["layers"]] == outcome.build.program.layers
    for at, layer in enumerate(found["layers"]):
        assert layer.keys() >= {"name", "kind", "dense_macs", "sops", "events", "masked_events", "cycles",
                                "predicted_cycles", "utilisation", "energy_pj"}
        assert layer["events"] == pytest.approx(sum(image[at].events for image in verdict.predicted) / 3)
        assert layer["cycles"] == layer["predicted_cycles"]
        assert 0 <= layer["energy_pj"]["snn_integer"] <= layer["energy_pj"]["snn_integer_memory"]
    totals = found["totals"]
    assert totals["cycles"] == pytest.approx(rtl["cycles_per_image"])
    assert totals["energy_pj"]["snn_float_proxy"] == pytest.approx(0.9 * totals["sops"])
    assert totals["energy_pj"]["ann_float_proxy"] == pytest.approx(4.6 * totals["dense_macs"])
    assert totals["rate_spikes"] >= totals["phase_spikes"] > 0 and totals["masked_events"] > 0
    assert all(entry["source"] for entry in found["energy_constants"])


def test_markdown_says_what_is_what(written: tuple[Outcome, Path]) -> None:
    outcome, folder = written
    text = (folder / "report.md").read_text()
    assert f"`{outcome.verdict.line()}`" in text and "![cycles per layer](cycles.svg)" in text
    for name in outcome.build.program.layers:
        assert text.count(f"| {name} |") == 3 + (name != "image"), name
    for words in ("(measured)", "Energy (modelled)", "ISSCC 2014", "has no accuracy", "float QCFS | not measured",
                  "rate code"):
        assert words in text
    assert "not counted: run `python -m hwgen.multipliers`" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables) and "None" not in text
    for block in text.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, rows[:2]


def test_picture(written: tuple[Outcome, Path]) -> None:
    outcome, folder = written
    tree = ET.fromstring((folder / "cycles.svg").read_text())
    texts = [node.text for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert set(outcome.build.program.layers) <= set(texts)
    one = {"name": "a", "cycles": 50, "predicted_cycles": 50, "dense_cycles": 100, "mask_skipped_cycles": 10,
           "zero_skipped_cycles": 40}
    drawn = picture([one])
    assert 'width="280.0"' in drawn and 'width="56.0"' in drawn and 'width="224.0"' in drawn and "50 of 100" in drawn


def test_equal_runs_write_nothing_and_rendering_repeats(written: tuple[Outcome, Path]) -> None:
    outcome, folder = written
    before = {name: ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) for name in FILES}
    write_report(outcome, CONFIG, folder)
    assert {name: ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) for name in FILES} == before
    (folder / "report.md").unlink()
    (folder / "cycles.svg").write_text("old")
    assert render_again(folder) == folder / "report.md"
    assert {name: (folder / name).read_bytes() for name in FILES} == {name: kept[1] for name, kept in before.items()}


@pytest.mark.parametrize(("text", "message"), [
    (None, r"report\.json: there is no report yet: run make sim first$"), ("{", "broken .*: run make sim again$"),
    ("[]", "is not of version 1: run make sim again$"), ('{"version": 0}', "is not of version 1: run make sim again$")])
def test_without_a_report(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(ReportError, match=message) as caught:
        render_again(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_failed_run_is_reported_too(tmp_path: Path) -> None:
    outcome = an_outcome(tmp_path)
    outcome.verdict.measured.clear()
    outcome.verdict.failures += ["image 1, s0.b0.fc1, token 2, channel 3: 4, expected 5", "1 images ran, expected 3"]
    outcome.verdict.mismatched_images.add(1)
    write_report(outcome, CONFIG, tmp_path)
    found, text = values_of(tmp_path), (tmp_path / "report.md").read_text()
    assert (found["rtl"]["passed"], found["rtl"]["mismatches"], found["rtl"]["cycles_per_image"]) == (False, 1, None)
    assert found["layers"][1]["cycles"] is None and found["totals"]["cycles"] is None
    assert "- FAIL: image 1, s0.b0.fc1, token 2" in text and "not in this run: it failed" in text
    ET.fromstring((tmp_path / "cycles.svg").read_text())


def test_accuracies_of_trained_networks_only(tmp_path: Path) -> None:
    file = tmp_path / "small.accuracy.json"
    measured = {"qcfs": 0.75, "exact": 0.75, "stepwise": {"4": 0.5, "64": 0.625}, "images": 10000, "integer": 0.7}
    file.write_text(json.dumps(measured | {"integer_network": "of another network"}))
    assert accuracy(NETWORK, file)["qcfs"] is None, "a random network has none"
    assert accuracy(dataclasses.replace(NETWORK, notes={}), file) == {
        "qcfs": 0.75, "exact": 0.75, "exact_agreement": None, "integer": None,
        "stepwise": {"4": 0.5, "64": 0.625}, "images": 10000}
    assert accuracy(TRAINED, file) == {
        "qcfs": 0.5, "exact": 0.75, "exact_agreement": None, "integer": 0.25,
        "stepwise": {"4": 0.5, "64": 0.625}, "images": 1000}
    file.write_text(json.dumps(measured | {"integer_network": network_digest(NETWORK)}))
    assert accuracy(dataclasses.replace(NETWORK, notes={}), file)["integer"] == 0.7
    assert accuracy(TRAINED, tmp_path / "none.json")["exact"] is None
    file.write_text("{")
    with pytest.raises(ReportError, match="accuracy.json: broken .*measure again with"):
        accuracy(TRAINED, file)


def test_accuracies_are_looked_for_beside_the_network_file(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, name="mine", network=tmp_path / "theirs.mstn")
    (tmp_path / "theirs.accuracy.json").write_text(json.dumps({"exact": 0.375}))
    outcome = an_outcome(tmp_path)
    outcome.build.program.network = dataclasses.replace(TRAINED, notes={})
    write_report(outcome, config, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["network"]["accuracy"]["exact"] == 0.375


def test_accuracies_and_operators_in_the_markdown(tmp_path: Path) -> None:
    outcome = an_outcome(tmp_path)
    outcome.build.program.network = TRAINED
    file = tmp_path / "small.accuracy.json"
    file.write_text(json.dumps({"stepwise": {"16": 0.5, "4": 0.125}, "exact": 0.5, "exact_agreement": 1.0}))
    outcome.build.verilog.write_text("module m; endmodule\n")
    (tmp_path / OPERATORS_FILE).write_text(json.dumps({
        "verilog_sha256": digest("module m; endmodule\n"), "multiplications": [],
        "modules": {"m": {"multipliers": 0, "adders": 7, "comparators": 5, "shifters": 1}}}))
    write_report(outcome, CONFIG, tmp_path, file)
    text = (tmp_path / "report.md").read_text()
    assert "| accuracy, float QCFS | 50.00 % |" in text
    assert "at T = L | 50.00 % (same class as QCFS on 100.00 % of" in text
    assert text.index("stepwise at T = 4 | 12.50 %") < text.index("stepwise at T = 16 | 50.00 %")
    assert "in the emitted Verilog | 0 (pyverilog; 7 adders, 5 comparators, 1 shifters in 1 modules) |" in text
    assert values_of(tmp_path)["operators"]["multipliers"] == 0
    outcome.build.verilog.write_text("module n; endmodule\n")
    write_report(outcome, CONFIG, tmp_path, file)
    assert values_of(tmp_path)["operators"] is None, "counts of other Verilog must not stand here"
