"""Files of strangers: every reader is known, refuses in a line, and believes no size before it has compared it (tests/fuzz)."""
import ast
import struct
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

readers = pytest.importorskip("readers", reason="tests/fuzz is missing")
pytest.importorskip("torch", reason="torch cannot be imported: see `make help`")
import run as fuzz  # noqa: E402

READS = {"read_bytes", "read_text", "safe_open", "fromfile", "memmap", "Unpickler", "ZipFile", "frombytes", "open"}
PARSES = {"loads", "load", "decompress", "is_zipfile", "loadtxt"}
LIBRARIES = {"json", "tomllib", "np", "numpy", "pickle", "gzip", "zipfile", "torch", "yaml", "marshal"}


def reading_functions() -> set[str]:
    """Functions of the packages that open or parse a file, as "module:name"."""
    found: set[str] = set()

    def visit(node: ast.AST, module: str, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else where
            if isinstance(child, ast.Call):
                call = child.func
                name = call.attr if isinstance(call, ast.Attribute) else call.id if isinstance(call, ast.Name) else ""
                owner = call.value.id if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) else ""
                writes = any(isinstance(a, ast.Constant) and a.value in ("w", "wb", "a", "ab") for a in child.args)
                if (name in READS and not writes) or (name in PARSES and owner in LIBRARIES):
                    found.add(f"{module}:{inner}")
            visit(child, module, inner)

    for folder in ("model", "quantize", "hwgen", "sim", "firmware"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            visit(ast.parse(path.read_text(encoding="utf-8")), module, "")
    return found


def test_no_reader_is_forgotten() -> None:
    """A function that opens a file is fuzzed through an entry of READERS, or OWN says why no stranger's file reaches it."""
    covered = {name for reader in readers.READERS.values() for name in reader.covers}
    found = reading_functions()
    assert len(found) > 60, "the search finds nothing"
    new = found - covered - readers.OWN.keys()
    assert not new, f"in neither READERS nor OWN of tests/fuzz/readers.py: {sorted(new)}"
    gone = (covered | readers.OWN.keys()) - found - {"firmware.host.frames:feed"}
    assert not gone, f"no longer there, or reading nothing: {sorted(gone)}"


def test_nothing_unpickles_with_the_standard_library() -> None:
    for folder in ("model", "quantize", "hwgen", "sim", "firmware"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert "import pickle\n" not in text and "allow_pickle=True" not in text and "torch.load(" not in text, path


def far_memo() -> bytes:
    """A pickle that puts its dictionary at place 2^30 of the memo: 8 GB of pointers for Python's own machine."""
    return b"\x80\x02}r" + struct.pack("<I", 1 << 30) + b"X\x05\x00\x00\x00modelNs."


def in_a_zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)


HEADER = b"""[model]
image_size = 32
in_channels = 3
classes = 10
patch = 2
embedding = 32
heads = [2, 4, 8]
window = 4
mlp_ratio = 2.0
levels = 7
"""
DTYPE = (b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x89\x88\x87R"
         b"(K\x03X\x01\x00\x00\x00|NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.")
SEEN: dict[str, tuple[str, object, str]] = {
    "a dtype in place of a batch": ("cifar batch", DTYPE, "holds a _Dtype, not the dictionary of a CIFAR batch"),
    "an array without a buffer": ("cifar batch",
                                  b"\x80\x02}U\x04datacnumpy\nndarray\n)Rs.", "its array b'data' is not described"),
    "depths of 2^32": ("configuration", HEADER + b"depths = [2, 2, 4294967296]\n", "depths must be at most 1024 blocks"),
    "an infinite product": ("configuration",
                            HEADER + b"depths = [2, 2, 2]\n[masking]\nratio = 1e308\n", "ratio must be a multiple"),
    "machine = 3": ("configuration", b"machine = 3\n" + HEADER + b"depths = [2, 2, 2]\n", "[machine] must be a table, not 3"),
    "kind = []": ("configuration", HEADER + b"depths = [2, 2, 2]\nkind = []\n", "kind must be one of mst, vgg, resnet, not []"),
    "preset = {}": ("configuration", b"[model]\nkind = 'vgg'\npreset = {}\n", "preset must be one of vgg16, not {}"),
    "no channels": ("configuration", HEADER.replace(b"= 32\nheads", b"= 0\nheads") + b"depths = [1, 1, 1]\n",
                    "embedding must be 1 to"),
    "a seed of 70 bits": ("configuration",
                          HEADER + b"depths = [1, 1, 1]\n[train]\nseed = 1180591620717411303424\n", "must fit 64 bits"),
    "a nest in a manifest": ("manifest", b"[" * 100_000, "not a build's manifest"),
    "a nest": ("configuration", b"x = " + b"[" * 5000, "nested too deeply"),
    "a number of 5,000 digits": ("configuration", b"x = " + b"9" * 5000, "not TOML"),
    "positions of large windows": ("configuration", HEADER.replace(b"= 4\nmlp", b"= 256\nmlp").replace(b"= 32\nin", b"= 2048\nin")
                                   + b"depths = [2, 2, 2]\n", "give tables of"),
    "a far memo, zip": ("authors' checkpoint", lambda path: in_a_zip(path, far_memo()), "holds no dict `model`"),
    "a far memo, legacy": ("authors' checkpoint", far_memo(), "not of torch.save"),
    "a tuple of tuples as a key": ("cifar batch", b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s.", "has a tuple as a key"),
    "a memory of bytes": ("cifar batch", b"\x80\x04\x96" + struct.pack("<Q", 1 << 40), "truncated CIFAR batch"),
}


@pytest.mark.parametrize("name", SEEN)
def test_what_was_seen_to_fail_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    reader, content, complaint = SEEN[name]
    path = tmp_path / readers.READERS[reader].name
    if callable(content):
        content(path)
        content = path.read_bytes()
    assert isinstance(content, bytes)
    kind, what = fuzz.one(readers.READERS[reader], content, tmp_path)
    assert kind == "refused" and complaint in what, what


def test_depths_of_a_network_file_are_compared_before_they_are_believed(tmp_path: Path) -> None:
    reader = readers.READERS["network file"]
    data = reader.seeds()[1]
    assert reader.repair is not None and b'"depths": [\n   1,\n   1\n  ]' in data
    broken = reader.repair(data.replace(b'"depths": [\n   1,\n   1\n  ]', b'"depths": [\n   1,\n   2147483648\n  ]'))
    kind, what = fuzz.one(reader, broken, tmp_path)
    assert kind == "refused" and "12 stages of 1024 blocks together, not 2 of 2147483649" in what


def test_a_small_checkpoint_of_a_large_network_takes_no_memory(tmp_path: Path) -> None:
    """The header describes 1,024 channels and 48 MB of weights a block; the file holds a few tensors of a small one."""
    reader = readers.READERS["checkpoint"]
    (data,) = reader.seeds()
    assert reader.repair is not None
    assert rb'\"embedding\": 8' in data
    kind, what = fuzz.one(reader, reader.repair(data.replace(rb'\"embedding\": 8', rb'\"embedding\": 8192')), tmp_path)
    assert kind == "refused" and "has shape" in what


@pytest.mark.parametrize(("name", "member"), [("authors' checkpoint", b"/data.pkl"), ("npz", b"images.npy")])
def test_sizes_of_an_archives_members_are_compared(name: str, member: bytes, tmp_path: Path) -> None:
    """zipfile asks for as many bytes of memory as the directory at the end of the archive says that the member takes."""
    reader = readers.READERS[name]
    data = bytearray(reader.seeds()[0])
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(member))
    data[entry + 20:entry + 24] = struct.pack("<I", (1 << 31) - 1)
    kind, what = fuzz.one(reader, bytes(data), tmp_path)
    assert kind == "refused" and "2147483647 bytes" in what, what


def test_sections_that_overlap_are_refused(tmp_path: Path) -> None:
    reader = readers.READERS["packed network"]
    (data,) = reader.seeds()
    from hwgen.packed import HEADER as WORDS
    second = 4 * len(WORDS) + 12
    assert reader.repair is not None
    broken = reader.repair(data[:second + 4] + data[second - 8:second - 4] + data[second + 8:])
    kind, what = fuzz.one(reader, broken, tmp_path)
    assert kind == "refused" and "section 1" in what and "or is there twice" in what


def test_whole_files_are_read_and_the_limits_are_seen(tmp_path: Path) -> None:
    """What the fuzzer calls over the limit, a traceback and no line, on readers that do just that."""
    def reader(read: object) -> object:
        return readers.Reader("x", read, list, ())

    def large(path: Path) -> object:
        return b"x" * (600 << 20)

    def line(path: Path) -> None:
        raise ValueError("two\nlines")

    def busy(path: Path) -> None:
        limit = time.process_time() + 2.5
        while time.process_time() < limit:
            pass

    assert fuzz.one(reader(lambda path: {}["x"]), b"", tmp_path)[0] == "traceback"
    assert fuzz.one(reader(line), b"", tmp_path)[0] == "traceback"
    assert fuzz.one(reader(large), b"", tmp_path)[0] == "over_limit"
    assert fuzz.one(reader(busy), b"", tmp_path)[0] == "over_limit"
    for name, entry in readers.READERS.items():
        folder = tmp_path / name
        folder.mkdir()
        whole = entry.seeds()
        fuzz.one(entry, whole[0], folder)  # imports what it needs
        for data in whole:
            assert fuzz.one(entry, data, folder)[0] == "read", name


@pytest.mark.slow
def test_200_mutations_of_every_reader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--count", "200", "--seed", "7", "--folder", str(tmp_path)]) == 0, capsys.readouterr().out
    state = (tmp_path / "state-7.json").read_text()
    assert fuzz.main(["--count", "200", "--seed", "7", "--folder", str(tmp_path)]) == 0, "nothing is left to do"
    assert (tmp_path / "state-7.json").read_text() == state
