"""The host's view of the machine, described once as data: registers, their fields, load targets and error codes.

The CSR block (`hwgen.csr`), the stream window (`hwgen.window`), the host driver and everything generated for firmware
(`hwgen.register_files`) read these lists and nothing else. 32-bit registers on word addresses; a reserved bit reads 0 and takes
no write.
"""
import enum
from collections.abc import Mapping
from dataclasses import dataclass

from hwgen.config import STEPS_MOST, MachineConfig

ADDRESS_BITS = 8
"""Of the machine's own registers."""
WINDOW_ADDRESS_BITS = 13
"""Of the machine behind a stream window: its registers first, then the window's."""
DATA_BITS = 32
MAGIC = 0x4D535431
"""The ID register: "MST1"."""
WINDOW_MAGIC = 0x4D535457
"""The WINDOW_ID register: "MSTW"."""
VERSION = 4
"""Version of this register map: raised when a driver of one map would misread the other."""

ACCESS = {
    "const": "read only, fixed when the machine is generated",
    "ro": "read only, from the machine",
    "rw": "read and write",
    "rwh": "read and write; the machine moves it on too (a host write in the same cycle wins)",
    "w1c": "set by the machine and held; a write with any bit of the field set clears the whole field",
    "pulse": "writing 1 gives a pulse of one cycle; reads 0",
    "wo": "write only: every write of a whole word counts; reads 0",
}


class RegisterError(ValueError):
    """A register description or a machine that cannot be: the message names the register, the value, the remedy."""


class LoadTarget(enum.IntEnum):
    """Which memory a packet on the input stream goes to while the machine is idle."""

    NONE = 0
    PROGRAM = 1
    WEIGHTS = 2
    PARAMS = 3
    ROM = 4
    BRANCHES = 5
    READS = 6
    WRITES = 7
    DISCARD = 8


STEPS_BITS = STEPS_MOST.bit_length()
TARGET_BITS = 4
TARGET_DOC: Mapping[LoadTarget, str] = {
    LoadTarget.NONE: "none: packets are images and wait until the machine takes them",
    LoadTarget.PROGRAM: "program memory, one descriptor a word",
    LoadTarget.WEIGHTS: "weight memory, one row of `lanes` weights a word",
    LoadTarget.PARAMS: "fire parameter memory: the neurons after a GEMM",
    LoadTarget.ROM: "softmax ROM, one entry {den, num} a word, num low",
    LoadTarget.BRANCHES: "fire parameter memory: the residual and what follows it",
    LoadTarget.READS: "read program: transfers from external memory",
    LoadTarget.WRITES: "write program: transfers to external memory",
    LoadTarget.DISCARD: "nowhere: whole packets are taken and dropped, whatever their length",
}


class ErrorCode(enum.IntEnum):
    """Contents of ERROR.code. The first error is kept until it is cleared."""

    NONE = 0
    BAD_DESCRIPTOR = 1
    STREAM_SHORT = 2
    STREAM_LONG = 3
    LOAD_RANGE = 4
    BUSY = 5
    LOAD_TARGET = 6
    MEMORY_FAULT = 7
    BAD_STEPS = 8


ERROR_DOC: Mapping[ErrorCode, str] = {
    ErrorCode.NONE: "no error",
    ErrorCode.BAD_DESCRIPTOR: "the program holds a descriptor of no known kind: load the program again",
    ErrorCode.STREAM_SHORT: "a packet ended (TLAST) inside an image or inside a memory word: send whole ones",
    ErrorCode.STREAM_LONG: "an image packet went on past the image (no TLAST on its last beat): check its shape",
    ErrorCode.LOAD_RANGE: "a load went past the end of its memory: check LOAD_ADDRESS and the capability registers",
    ErrorCode.BUSY: "start was written during a run or a load: wait for STATUS.busy and STATUS.loading to be 0",
    ErrorCode.LOAD_TARGET: "a packet came for a memory that cannot be loaded: see LOAD_TARGET",
    ErrorCode.MEMORY_FAULT: "external memory answered with an error: check MEMORY_BASE and what lies there",
    ErrorCode.BAD_STEPS: "start was written while STEPS is 0 or above CAP_FIRING.steps: write a number that the machine has",
}


@dataclass(frozen=True, slots=True)
class Field:
    """Bits of a register: `width` bits from bit `low` on. `access` is a key of ACCESS; `reset` is its first value."""

    name: str
    width: int
    low: int
    access: str
    doc: str
    reset: int = 0
    values: type[enum.IntEnum] | None = None

    def __post_init__(self) -> None:
        if self.access not in ACCESS:
            raise RegisterError(f"field {self.name}: unknown access {self.access!r}; known: {', '.join(ACCESS)}")
        if not 1 <= self.width <= DATA_BITS or self.low < 0 or self.low + self.width > DATA_BITS:
            raise RegisterError(f"field {self.name}: {self.width} bits from bit {self.low} do not fit "
                                f"{DATA_BITS} bits: split the register")
        if not 0 <= self.reset < 1 << self.width:
            raise RegisterError(f"field {self.name}: reset {self.reset} does not fit {self.width} bits")

    @property
    def mask(self) -> int:
        """The field's bits within its register."""
        return ((1 << self.width) - 1) << self.low

    def get(self, word: int) -> int:
        """The field's value in a register's `word`."""
        return (word & self.mask) >> self.low

    def put(self, value: int) -> int:
        """`value` at the field's place, other bits 0; RegisterError when it does not fit."""
        if not 0 <= value < 1 << self.width:
            raise RegisterError(f"field {self.name}: {value} does not fit {self.width} bits")
        return value << self.low


@dataclass(frozen=True, slots=True)
class Register:
    """One 32-bit register at byte `offset`, or `count` of them in a row.

    `latched_by`: reading that register freezes this one, for 64-bit counts.
    """

    name: str
    offset: int
    fields: tuple[Field, ...]
    doc: str
    latched_by: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        if self.offset % 4 or self.count < 1 or not 0 <= self.offset <= self.end <= 1 << WINDOW_ADDRESS_BITS:
            raise RegisterError(f"register {self.name}: offset {self.offset:#x} is not a word address "
                                f"below {1 << WINDOW_ADDRESS_BITS:#x}")
        taken = 0
        for field in self.fields:
            if taken & field.mask:
                raise RegisterError(f"register {self.name}: field {field.name} overlaps another one")
            taken |= field.mask

    def field(self, name: str) -> Field:
        """The field called `name`; RegisterError when there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise RegisterError(f"register {self.name} has no field {name!r}; "
                            f"known: {', '.join(f.name for f in self.fields)}")

    @property
    def end(self) -> int:
        """The byte offset behind it."""
        return self.offset + 4 * self.count

    @property
    def writable(self) -> bool:
        """Whether the host may write it (a write to any other register is answered with SLVERR)."""
        return any(field.access in ("rw", "rwh", "w1c", "pulse", "wo") for field in self.fields)


def _word(name: str, offset: int, access: str, doc: str, reset: int = 0, latched_by: str = "") -> Register:
    return Register(name, offset, (Field("value", DATA_BITS, 0, access, doc, reset),), doc, latched_by)


REGISTERS: tuple[Register, ...] = (
    _word("ID", 0x00, "const", "magic number, \"MST1\"", MAGIC),
    _word("VERSION", 0x04, "const", "version of this register map", VERSION),
    _word("BUILD_ID", 0x08, "const", "first 32 bits of the hash of the generated design"),
    Register("CAP_ARRAY", 0x0C, (
        Field("lanes", 12, 0, "const", "output channels accumulated in parallel"),
        Field("fire_lanes", 12, 12, "const", "channels that the fire unit takes in each cycle"),
        Field("planes", 4, 24, "const", "bit planes of a spike count"),
        Field("rows_per_cycle", 4, 28, "const", "weight rows read in each cycle"),
    ), "capability: the array"),
    Register("CAP_ATTENTION", 0x10, (
        Field("head_lanes", 12, 0, "const", "largest head size"),
        Field("window_tokens", 12, 12, "const", "largest number of tokens in a window"),
        Field("rows", 4, 24, "const", "query rows taken in parallel"),
    ), "capability: the attention unit"),
    Register("CAP_FORMAT", 0x14, (
        Field("weight_bits", 8, 0, "const", "bits of a weight"),
        Field("rom_bits", 8, 8, "const", "bits of a softmax ROM value"),
        Field("acc_bits", 8, 16, "const", "bits of a lane accumulator"),
        Field("bus_bytes", 7, 24, "const", "bytes of a beat of the input stream"),
        Field("loadable", 1, 31, "const", "1: weights are loaded; 0: weights are part of the machine"),
    ), "capability: number formats and bus"),
    _word("CAP_WEIGHT_ROWS", 0x18, "const", "depth of the weight memory, words of `lanes` weights"),
    _word("CAP_SPIKE_WORDS", 0x1C, "const", "depth of the spike scratchpad, words of `lanes` counts"),
    _word("CAP_STREAM_WORDS", 0x20, "const", "depth of the residual scratchpad, words of `fire_lanes` values"),
    _word("CAP_PARAM_WORDS", 0x24, "const", "depth of the fire parameter memory, words of `fire_lanes` channels"),
    _word("CAP_ROM_WORDS", 0x28, "const", "depth of the softmax ROM"),
    _word("CAP_DESCRIPTORS", 0x2C, "const", "depth of the program memory"),
    Register("CAP_MEMORY", 0x30, (
        Field("bits", 10, 0, "const", "AXI4 data bits to external memory; 0: everything is on chip"),
        Field("burst", 9, 10, "const", "beats of the longest burst"),
        Field("outstanding", 7, 19, "const", "bursts under way in each direction"),
    ), "capability: external memory"),
    _word("CAP_TRANSFERS", 0x34, "const", "depth of each transfer program memory"),
    Register("CAP_FIRING", 0x38, (
        Field("steps", STEPS_BITS, 0, "const", "most time steps of an image; 0: the machine fires `exact`, in one"),
        Field("level_bits", 3, 16, "const", "b of the network's levels, L = 2^b - 1, where it fires in time steps; else 0"),
    ), "capability: firing"),
    Register("CTRL", 0x40, (
        Field("start", 1, 0, "pulse", "run IMAGES images from PROGRAM_START on"),
        Field("abort", 1, 1, "pulse", "stop at once and forget the run and the packet under way; registers and loaded memories "
              "stay, and packets that wait: see LOAD_TARGET"),
    ), "control"),
    Register("STATUS", 0x44, (
        Field("busy", 1, 0, "ro", "a run is under way"),
        Field("done", 1, 1, "ro", "the last run ended; cleared by start and abort"),
        Field("error", 1, 2, "ro", "ERROR.code is not 0"),
        Field("loading", 1, 3, "ro", "a load packet is under way on the input stream"),
        Field("input", 1, 4, "ro", "a packet waits or is under way on the input stream"),
        Field("output", 1, 5, "ro", "results have not all been taken from the result stream"),
    ), "status"),
    Register("ERROR", 0x48, (
        Field("code", 8, 0, "w1c", "first error since the last clear", values=ErrorCode),
    ), "error code; write 0xFF to clear"),
    Register("IRQ_ENABLE", 0x4C, (
        Field("done", 1, 0, "rw", "interrupt when a run ends"),
        Field("error", 1, 1, "rw", "interrupt on an error"),
        Field("loaded", 1, 2, "rw", "interrupt when a load packet is in its memory"),
    ), "interrupt enables"),
    Register("IRQ_STATUS", 0x50, (
        Field("done", 1, 0, "w1c", "a run ended"),
        Field("error", 1, 1, "w1c", "an error happened"),
        Field("loaded", 1, 2, "w1c", "a load packet is in its memory"),
    ), "interrupt causes, held until cleared; irq = any enabled cause"),
    _word("PROGRAM_START", 0x54, "rw", "index of the program's first descriptor"),
    _word("IMAGES", 0x58, "rw", "images to run for each start, at least 1", 1),
    _word("IMAGE_INDEX", 0x5C, "rwh", "index of the next image, for the spike mask; counts up"),
    _word("MASK_SEED", 0x60, "rw", "seed of the spike mask"),
    Register("MASK_CTRL", 0x64, (
        Field("enable", 1, 0, "rw", "1: mask spikes; 0: every ratio is 0"),
        Field("override", 1, 1, "rw", "1: `ratio` replaces the program's ratio at every site the program masks"),
        Field("ratio", 8, 8, "rw", "ratio in units of 1/256"),
    ), "random spike masking"),
    Register("LOAD_TARGET", 0x68, (
        Field("target", TARGET_BITS, 0, "rw", "where packets go while the machine is idle", values=LoadTarget),
    ), "load target; 0 before images are sent. After an abort, 8 until STATUS.input is 0 withdraws the images that wait"),
    _word("LOAD_ADDRESS", 0x6C, "rwh", "word that the next load packet starts at; after a packet, the word behind it"),
    _word("CYCLES_LO", 0x70, "ro", "clock cycles of the run, low word: read it first"),
    _word("CYCLES_HI", 0x74, "ro", "clock cycles of the run, high word as of the last read of the low word",
          latched_by="CYCLES_LO"),
    _word("EVENTS_LO", 0x78, "ro", "events that the array processed in the run, low word: read it first"),
    _word("EVENTS_HI", 0x7C, "ro", "events, high word as of the last read of the low word", latched_by="EVENTS_LO"),
    _word("LAYER", 0x80, "ro", "index of the descriptor that runs, or ran last"),
    _word("MEMORY_BASE", 0x84, "rw", "where the machine's external memory begins, in units of 4 KiB"),
    _word("STALLS_LO", 0x88, "ro", "cycles in which only external memory kept a descriptor waiting, low word: read it first"),
    _word("STALLS_HI", 0x8C, "ro", "stalled cycles, high word as of the last read of the low word", latched_by="STALLS_LO"),
    Register("STEPS", 0x90, (
        Field("value", STEPS_BITS, 0, "rw", "time steps of each image, taken at start: 1 to CAP_FIRING.steps, which it is "
              "after reset; of no effect where that is 0"),
    ), "time steps"),
)

WINDOW_BASE = 1 << ADDRESS_BITS
LOGITS_MOST = 1024
"""Words of the address space for logits; a machine's window may hold fewer (WINDOW_CAP.logits)."""

WINDOW_REGISTERS: tuple[Register, ...] = (
    _word("WINDOW_ID", 0x100, "const", "magic number, \"MSTW\": behind these registers there is a stream window", WINDOW_MAGIC),
    Register("WINDOW_CAP", 0x104, (
        Field("beats", 16, 0, "const", "beats that the window queues for the input stream"),
        Field("logits", 16, 16, "const", "logits that it holds"),
    ), "capability: the stream window"),
    Register("WINDOW_STATUS", 0x108, (
        Field("free", 16, 0, "ro", "beats that may be sent now; equal to WINDOW_CAP.beats: nothing is queued"),
        Field("open", 1, 16, "ro", "a packet was begun and not ended"),
        Field("overflow", 1, 17, "w1c", "a beat was sent while nothing was free: it is lost, its write was answered with SLVERR"),
    ), "state of the stream window"),
    _word("SEND", 0x10C, "wo", "the next 32 bits of a packet for the input stream, lowest first; a beat goes when it is whole"),
    _word("SEND_LAST", 0x110, "wo", "the same for a packet's last 32 bits: the beat is filled up with zeros and ends the packet"),
    Register("RESULT", 0x114, (
        Field("count", 16, 0, "ro", "logits of the result, also those that found no room"),
        Field("receiving", 1, 30, "ro", "a result is coming in"),
        Field("valid", 1, 31, "w1c", "a whole result is in LOGITS; clear it to let the next one in"),
    ), "result"),
    Register("LOGITS", 0x1000, (
        Field("value", 32, 0, "ro", "logit, signed"),
    ), "logits of the result, while RESULT.valid is 1", count=LOGITS_MOST),
)
"""The registers of `hwgen.window`, above the machine's own on the same bus: for a host without AXI4-Stream."""
ALL_REGISTERS = REGISTERS + WINDOW_REGISTERS


def address_map(registers: tuple[Register, ...] = REGISTERS) -> dict[str, Register]:
    """Name -> register, in address order; RegisterError when two share a name or an address."""
    names: dict[str, Register] = {}
    before: Register | None = None
    for register in sorted(registers, key=lambda entry: entry.offset):
        if register.name in names:
            raise RegisterError(f"two registers are called {register.name}: rename one")
        if before is not None and register.offset < before.end:
            raise RegisterError(f"registers {before.name} and {register.name} share offset {register.offset:#x}: move one")
        names[register.name] = before = register
    for register in registers:
        if register.latched_by and register.latched_by not in names:
            raise RegisterError(f"register {register.name} is latched by {register.latched_by!r}, which does not exist")
    return names


def constants(m: MachineConfig, build_id: int) -> dict[tuple[str, str], int]:
    """Values of every "const" field, keyed (register, field), and the reset values that depend on the machine.

    RegisterError when a memory depth of `m` is still 0 (auto), or `build_id` does not fit 32 bits.
    """
    if not 0 <= build_id < 1 << DATA_BITS:
        raise RegisterError(f"build_id {build_id:#x} does not fit {DATA_BITS} bits: give the hash's first 32 bits")
    values: dict[tuple[str, str], int] = {
        ("ID", "value"): MAGIC, ("VERSION", "value"): VERSION, ("BUILD_ID", "value"): build_id,
        ("CAP_ARRAY", "lanes"): m.lanes, ("CAP_ARRAY", "fire_lanes"): m.fire_lanes,
        ("CAP_ARRAY", "planes"): m.planes, ("CAP_ARRAY", "rows_per_cycle"): m.rows_per_cycle,
        ("CAP_ATTENTION", "head_lanes"): m.head_lanes, ("CAP_ATTENTION", "window_tokens"): m.window_tokens,
        ("CAP_ATTENTION", "rows"): m.attention_rows,
        ("CAP_FORMAT", "weight_bits"): m.weight_bits, ("CAP_FORMAT", "rom_bits"): m.rom_bits,
        ("CAP_FORMAT", "acc_bits"): m.acc_bits, ("CAP_FORMAT", "bus_bytes"): m.bus_bytes,
        ("CAP_FORMAT", "loadable"): int(m.weights == "loadable"),
        ("CAP_MEMORY", "bits"): m.memory_bits, ("CAP_MEMORY", "burst"): m.memory_burst if m.memory_bits else 0,
        ("CAP_MEMORY", "outstanding"): m.memory_outstanding if m.memory_bits else 0,
        ("CAP_TRANSFERS", "value"): m.transfers if m.memory_bits else 0,
        ("CAP_FIRING", "steps"): m.steps if m.stepwise else 0,
        ("CAP_FIRING", "level_bits"): m.level_bits if m.stepwise else 0, ("STEPS", "value"): m.steps if m.stepwise else 0,
    }
    for name in ("weight_rows", "spike_words", "stream_words", "param_words", "rom_words", "descriptors"):
        depth = getattr(m, name)
        if depth < 1:
            raise RegisterError(f"{name} is {depth} (auto): size the machine before its registers are made")
        values[f"CAP_{name.upper()}", "value"] = depth
    if m.memory_bits and m.transfers < 1:
        raise RegisterError(f"transfers is {m.transfers} (auto): size the machine before its registers are made")
    return values
