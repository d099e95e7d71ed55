"""Every command line tells an error in one line and exits with 2; none shows a traceback. Ctrl-C: 130."""
import gc
import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from amaranth.hdl import Elaboratable

from hwgen.files import claimed
from model.command_line import command_line, told

Main = Callable[[Sequence[str]], int]
CONFIGURED = [
    ("model.__main__", ["train"]), ("model.__main__", ["evaluate"]), ("model.direct", ["--output", "{tmp}/d.safetensors"]),
    ("quantize.__main__", ["export"]), ("quantize.__main__", ["sample"]),
    ("hwgen.__main__", ["emit"]), ("hwgen.__main__", ["synth"]), ("hwgen.boards", ["bitstream"]), ("hwgen.pynq", []),
    ("hwgen.integration", []), ("firmware.__main__", ["pack"]),
    ("sim.__main__", ["run"]), ("sim.__main__", ["golden"]), ("sim.__main__", ["verify-all"]), ("sim.__main__", ["report"]),
    ("sim.bench", []), ("sim.fast.__main__", ["bench"]), ("sim.soc.__main__", []), ("sim.studies.__main__", ["rates"]),
    ("sim.uart.__main__", []),
]
"""Commands that take --config."""


def main_of(module: str) -> Main:
    """The module's `main`; skipped, aloud, where it needs a torch that is not there."""
    if module == "model.direct":
        pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see `make help`")
    return importlib.import_module(module).main  # type: ignore[no-any-return]


@pytest.mark.parametrize(("module", "arguments"), CONFIGURED, ids=[" ".join((m, *a[:1])) for m, a in CONFIGURED])
def test_a_folder_for_a_configuration_is_one_line(module: str, arguments: list[str], tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    if module.startswith("model") and arguments[0] in ("train", "evaluate"):
        pytest.importorskip("torch", reason="torch cannot be imported: install its CPU build, see `make help`")
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main_of(module)([*given, "--config", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: is a directory: name another file or folder, or change its rights\n"


def test_a_build_folder_that_is_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for module, arguments in (("hwgen.__main__", ["emit", "--output"]), ("sim.__main__", ["run", "--images", "1", "--build"])):
        assert main_of(module)([*arguments, str(taken), "--config", "configs/fashion-tiny.toml"]) == 2
        assert capsys.readouterr().err.startswith(f"{taken}")
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--random-weights", "-1"], "the seed of random weights must be 0 or more, not -1"),
    (["--latency", "-1"], "latency of external memory must be 0 cycles or more, not -1"),
    (["--bandwidth", "0"], "bandwidth of external memory must be above 0 and at most 1 beat a cycle, not 0"),
    (["--bandwidth", "3/2"], "bandwidth of external memory must be above 0 and at most 1 beat a cycle, not 3/2"),
    (["--images", "3"], "single runs one image, not 3: take run or verify-all for more"),
])
def test_options_are_judged_before_any_work(arguments: list[str], message: str, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    build = tmp_path / "build"
    assert main_of("sim.__main__")(["single", "--config", "configs/swin-t.toml", "--build", str(build), *arguments]) == 2
    assert capsys.readouterr().err == message + "\n"
    assert not build.exists()


@pytest.mark.parametrize(("module", "arguments", "place"), [
    ("sim.post_synth", ["--output", "{tmp}"], "{tmp}/sim"),
    ("sim.soc.__main__", ["--config", "configs/fashion-tiny.toml", "--images", "1", "--output", "{tmp}/soc"], "{tmp}/soc"),
    ("hwgen.boards", ["bitstream"], "{tmp}/ulx3s"),
    ("hwgen.pynq", [], "{tmp}/pynq-z2"),
    ("hwgen.__main__", ["synth", "--config", "configs/fashion-tiny.toml", "--output", "{tmp}"], "{tmp}/synth-ecp5-85f"),
    ("sim.uart.__main__", ["--config", "configs/fashion-tiny.toml"], "{tmp}/fashion-tiny/sim"),
])
def test_a_second_run_in_a_folder_is_one_line(module: str, arguments: list[str], place: str, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module_root in ("hwgen.boards.ROOT", "hwgen.pynq.ROOT", "sim.uart.__main__.BUILD_ROOT"):
        monkeypatch.setattr(module_root, tmp_path)
    folder = Path(place.format(tmp=tmp_path))
    with claimed(folder):
        assert main_of(module)([argument.format(tmp=tmp_path) for argument in arguments]) == 2
    assert capsys.readouterr().err == f"{folder}: another run is at work there: wait for its end, or name another folder\n"


def test_outputs_are_judged_before_long_work(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr("sim.studies.__main__.open_setting", work)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    studies, config = main_of("sim.studies.__main__"), ["--config", "configs/cifar10-tiny.toml"]
    assert studies(["rates", *config, "--output", str(taken)]) == 2
    assert studies(["direct", *config, "--output", str(tmp_path), "--trained", "nope.safetensors"]) == 2
    assert capsys.readouterr().err == (f"{taken}: file exists: name another file or folder, or change its rights\n"
                                       "nope.safetensors: no such checkpoint; make it with `python -m model.direct`\n")
    direct = main_of("model.direct")
    monkeypatch.setattr("model.direct.FineTuner", work)
    assert direct([*config, "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"{tmp_path}: is a folder: name a file to write\n"


def test_a_bandwidth_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main_of("sim.__main__")(["single", "--config", "configs/swin-t.toml", "--bandwidth", "1/0"])
    assert end.value.code == 2
    assert "not a number of beats a cycle: '1/0'" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code", "text"), [
    (ValueError("levels 6: use 7\nmore"), 2, "levels 6: use 7\n"),
    (FileNotFoundError(2, "No such file or directory", "x"), 2,
     "x: no such file or directory: name another file or folder, or change its rights\n"),
    (IsADirectoryError(21, "Is a directory", "x.tmp", None, "x"), 2,
     "x: is a directory: name another file or folder, or change its rights\n"),
    (RuntimeError("tool broke; its log ends:\nline"), 2, "tool broke; its log ends:\nline\n"),
    (KeyboardInterrupt(), 130, "interrupted: run the same command again\n"),
    (ModuleNotFoundError("no torch", name="torch"), 2,
     "torch cannot be imported: install its CPU build, see the note on torch in `make help`\n"),
])
def test_how_errors_are_told(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    @command_line(RuntimeError)
    def main() -> int:
        raise error

    assert main() == code
    assert capsys.readouterr().err == text


class Unused(Elaboratable):  # type: ignore[misc]
    """Hardware that never becomes part of a design: Amaranth warns when it goes."""


def test_hardware_that_ctrl_c_left_half_built_is_not_warned_of() -> None:
    @command_line()
    def main() -> int:
        raise KeyboardInterrupt

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert main() == 130
        Unused()
        gc.collect()
    assert not seen


@pytest.mark.parametrize("error", [KeyError("bug"), ModuleNotFoundError("no numpy", name="numpy"), RuntimeError("bug")])
def test_faults_of_the_program_keep_their_traceback(error: Exception) -> None:
    @command_line()
    def main() -> int:
        raise error

    with pytest.raises(type(error)):
        main()


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert told(ValueError()) == "ValueError"


def test_ctrl_c_of_the_host_driver(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("firmware.host.session.Session.open", interrupted)
    assert main_of("firmware.host.cli")(["probe", "--port", "sim:board"]) == 130
    assert capsys.readouterr().err == "mst-host: interrupted: mst-host clear ends what the machine is still doing\n"


@pytest.mark.parametrize("seed", ["-1", "1180591620717411303424", "one"])
def test_a_seed_that_no_generator_takes_is_refused(seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main_of("model.__main__")(["reference", "mst.safetensors", f"--seed={seed}"])
    assert stopped.value.code == 2
    assert f"a seed is a number from 0 to 2^32 - 1, not '{seed}'" in capsys.readouterr().err
