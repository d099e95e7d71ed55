"""An AXI4 slave memory as a pure Python model: latency, bandwidth, stalls, errors, and the rules a master must keep.

The model, one step a cycle, exactly (a model in another language that follows this gives the same cycles). A step sees
the master's outputs of its cycle and chooses the slave's outputs of the same cycle, in this order:

1. Tokens: with bandwidth num/den (beats a cycle, R and W together), `tokens = min(tokens + num, den + num - 1)`; a beat costs
   den; at first tokens = den - 1.
2. Stalls: a 32-bit xorshift (13, 17, 5) state, at first the seed, steps once; channel i of AR, AW, R, W, B stalls in this cycle
   when bits 6i .. 6i+5 of the state are less than `stall`.
3. R wants: no beat waits for RREADY, and the oldest burst was taken at least `latency` cycles ago (its AR in cycle t: the first
   beat in t + latency at the earliest), and R does not stall. W wants: WVALID, the AW of its burst was taken in an earlier
   cycle, and W does not stall.
4. The wants are served while tokens >= den, first the one that was not served last (at first R): R offers its next beat and pays,
   whether RREADY is high or not; W gets WREADY and pays. A beat that is offered stays until it is taken.
5. B is offered `latency` cycles after its burst's last W was taken, at the earliest, when B does not stall and none waits.
6. ARREADY and AWREADY are high unless the channel stalls.

Bursts are answered in order. Of what AXI4 allows, the memory takes the worst: a read's data is of the cycle in which its AR
was taken, and a write is in memory only when its B is offered.
"""
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

OKAY, SLVERR, INCR, PAGE = 0, 2, 1, 4096
CHANNELS = ("ar", "aw", "r", "w", "b")
STALL_STEPS = 64
PAYLOADS = {"ar": ("araddr", "arlen", "arsize", "arburst"), "aw": ("awaddr", "awlen", "awsize", "awburst"),
            "w": ("wdata", "wstrb", "wlast")}
OUTPUTS = (*PAYLOADS["ar"], "arvalid", *PAYLOADS["aw"], "awvalid", *PAYLOADS["w"], "wvalid", "rready", "bready")
"""The master's outputs that the model looks at; in a DUT they are named m_axi_<name>."""
INPUTS = ("arready", "awready", "wready", "rvalid", "rdata", "rresp", "rlast", "bvalid", "bresp")
"""What the model drives."""


class AxiError(AssertionError):
    """The master broke a rule of AXI4, or reached outside the memory."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast the memory is: cycles, beats a cycle, stall chance in 1/64 of each channel, seed of the stalls."""

    latency: int = 20
    bandwidth: Fraction = Fraction(1)
    stall: int = 0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.latency < 1:
            raise ValueError(f"latency must be at least 1 cycle, not {self.latency}")
        if not 0 < self.bandwidth <= 1:
            raise ValueError(f"bandwidth must be above 0 and at most 1 beat a cycle, not {self.bandwidth}")
        if not 0 <= self.stall < STALL_STEPS:
            raise ValueError(f"stall must be 0 to {STALL_STEPS - 1} in 1/{STALL_STEPS}, not {self.stall}")
        if not 0 < self.seed < 1 << 32:
            raise ValueError(f"the seed of the stalls must be 1 to 2^32 - 1, not {self.seed}")


@dataclass(slots=True)
class _Burst:
    address: int
    beats: int
    taken: int
    """cycle of the AR or AW; of a write that is complete, of its last W"""
    data: bytearray = field(default_factory=bytearray)


class AxiMemory:
    """`data` lies from byte address `base` on, on a bus of `bits` bits; `outstanding`: bursts a master may have under way.

    `errors`: R beats, `write_errors`: B answers (both counted from 0 over the model's life) that get SLVERR; a write that
    does is not done. `cycle`, `read_beats`, `write_beats` count. AxiError names the broken rule.
    """

    def __init__(self, data: bytearray, *, base: int = 0, bits: int = 64, timing: Timing | None = None, outstanding: int = 256,
                 errors: Sequence[int] = (), write_errors: Sequence[int] = ()) -> None:
        self.data, self.base, self.bytes = data, base, bits // 8
        self.timing, self.outstanding = timing or Timing(), outstanding
        self.errors, self.write_errors = set(errors), set(write_errors)
        self.cycle = self.read_beats = self.write_beats = self.answers = 0
        self._tokens, self._state, self._last = self.timing.bandwidth.denominator - 1, self.timing.seed, "w"
        self._reads, self._writes, self._done = deque[_Burst](), deque[_Burst](), deque[_Burst]()
        self._r: tuple[int, int, int] | None = None  # data, resp, last of the offered beat
        self._b: int | None = None
        self._waiting: dict[str, tuple[int, ...] | None] = dict.fromkeys(PAYLOADS)

    @property
    def quiet(self) -> bool:
        """No burst is under way and no address or W beat waits."""
        return not (self._reads or self._writes or self._done or self._r or self._b is not None or any(self._waiting.values()))

    def step(self, out: dict[str, int]) -> dict[str, int]:
        """One cycle: the master's `OUTPUTS` in, the slave's `INPUTS` out."""
        timing = self.timing
        num, den = timing.bandwidth.numerator, timing.bandwidth.denominator
        self._tokens = min(self._tokens + num, den + num - 1)
        stalled = self._stalls()
        for channel in PAYLOADS:
            self._stable(channel, out)

        reads, writes = self._reads, self._writes
        filling = next((burst for burst in writes if len(burst.data) < burst.beats * self.bytes), None)
        if out["wvalid"] and filling is None and not out["awvalid"]:
            raise AxiError("a W beat came before the AW of its burst")
        wants = {"r": self._r is None and bool(reads) and self.cycle >= reads[0].taken + timing.latency and not stalled["r"],
                 "w": bool(out["wvalid"]) and filling is not None and not stalled["w"]}
        served = dict.fromkeys("rw", False)
        for channel in ("r", "w") if self._last == "w" else ("w", "r"):
            if wants[channel] and self._tokens >= den:
                self._tokens -= den
                served[channel] = True
                self._last = channel
        if served["r"]:
            self._offer()
        if served["w"] and filling is not None:
            self._take(filling, out)
        if self._b is None and self._done and self.cycle >= self._done[0].taken + timing.latency and not stalled["b"]:
            self._answer()

        given = {"arready": int(not stalled["ar"]), "awready": int(not stalled["aw"]), "wready": int(served["w"]),
                 "rvalid": int(self._r is not None), "bvalid": int(self._b is not None), "bresp": self._b or 0}
        given |= dict(zip(("rdata", "rresp", "rlast"), self._r or (0, 0, 0), strict=True))
        if self._r is not None and out["rready"]:
            self._r = None
        if self._b is not None and out["bready"]:
            self._b = None
        for channel in ("ar", "aw"):
            if out[f"{channel}valid"] and not stalled[channel]:
                self._address(channel, out)
        for channel in PAYLOADS:
            waits = out[f"{channel}valid"] and not given[f"{channel}ready"]
            self._waiting[channel] = tuple(out[name] for name in PAYLOADS[channel]) if waits else None
        self.cycle += 1
        return given

    def _stalls(self) -> dict[str, bool]:
        state = self._state
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        self._state = state
        return {channel: (state >> 6 * index & STALL_STEPS - 1) < self.timing.stall for index, channel in enumerate(CHANNELS)}

    def _stable(self, channel: str, out: dict[str, int]) -> None:
        before = self._waiting[channel]
        if before is None:
            return
        if not out[f"{channel}valid"]:
            raise AxiError(f"{channel.upper()}VALID was withdrawn before {channel.upper()}READY")
        now = tuple(out[name] for name in PAYLOADS[channel])
        if now != before:
            raise AxiError(f"{channel.upper()} changed from {before} to {now} before {channel.upper()}READY")

    def _address(self, channel: str, out: dict[str, int]) -> None:
        address, beats = out[f"{channel}addr"], out[f"{channel}len"] + 1
        size, name = beats * self.bytes, channel.upper()
        if out[f"{channel}burst"] != INCR or 1 << out[f"{channel}size"] != self.bytes:
            raise AxiError(f"{name} must be INCR (1), whole beats, not {out[f'{channel}burst']} of size {out[f'{channel}size']}")
        if address % self.bytes:
            raise AxiError(f"{name} address {address:#x} is not aligned to {self.bytes} bytes")
        if address // PAGE != (address + size - 1) // PAGE:
            raise AxiError(f"{name} burst of {beats} beats at {address:#x} crosses 4 KiB")
        at = address - self.base
        if not 0 <= at <= len(self.data) - size:
            raise AxiError(f"{name} burst of {beats} beats at {address:#x} lies outside the memory")
        queue = self._reads if channel == "ar" else self._writes
        under_way = len(queue) + (0 if channel == "ar" else len(self._done) + (self._b is not None))
        if under_way >= self.outstanding:
            raise AxiError(f"{name}: more than {self.outstanding} bursts under way")
        queue.append(_Burst(at, beats, self.cycle, self.data[at:at + size] if channel == "ar" else bytearray()))

    def _offer(self) -> None:
        burst = self._reads[0]
        word = int.from_bytes(burst.data[:self.bytes], "little")
        del burst.data[:self.bytes]
        self._r = word, SLVERR if self.read_beats in self.errors else OKAY, int(not burst.data)
        self.read_beats += 1
        if not burst.data:
            self._reads.popleft()

    def _take(self, burst: _Burst, out: dict[str, int]) -> None:
        if out["wstrb"] != (1 << self.bytes) - 1:
            raise AxiError(f"WSTRB is {out['wstrb']:#x}, not all ones")
        burst.data += out["wdata"].to_bytes(self.bytes, "little")
        self.write_beats += 1
        whole = len(burst.data) == burst.beats * self.bytes
        if bool(out["wlast"]) != whole:
            raise AxiError(f"WLAST is {out['wlast']} at beat {len(burst.data) // self.bytes} of {burst.beats}")
        if whole:
            burst.taken = self.cycle
            self._writes.popleft()
            self._done.append(burst)

    def _answer(self) -> None:
        burst = self._done.popleft()
        self._b = SLVERR if self.answers in self.write_errors else OKAY
        self.answers += 1
        if self._b == OKAY:
            self.data[burst.address:burst.address + len(burst.data)] = burst.data
