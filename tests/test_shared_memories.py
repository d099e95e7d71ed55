"""hwgen/weights.py and hwgen/shared.py in Amaranth's own simulator, against Python lists, cycle by cycle."""
import gc
import random
from typing import Any

import pytest
from amaranth.sim import Simulator

from hwgen.shared import SharedScratchpad
from hwgen.weights import LATENCY, SLICE_BITS, WeightMemory

DEPTH = 11


def simulate(dut: Any, bench: Any) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("width", [8, SLICE_BITS, 2 * SLICE_BITS + 16])
@pytest.mark.parametrize("latency", [LATENCY, LATENCY + 1])
def test_weight_memory(width: int, latency: int) -> None:
    """Rows come LATENCY cycles after their address, whole, from both ports; with another latency expected the bench is red."""
    rng = random.Random(width)
    words = [rng.getrandbits(width) for _ in range(DEPTH)]
    memory = WeightMemory(width=width, depth=DEPTH, ports=2, init=words[:4], gates=False)
    wrong = 0

    async def bench(ctx: Any) -> None:
        nonlocal wrong
        for address in range(4, DEPTH):
            ctx.set(memory.write.en, 1)
            ctx.set(memory.write.address, address)
            ctx.set(memory.write.data, words[address])
            await ctx.tick()
        ctx.set(memory.write.en, 0)
        asked: list[tuple[int, int]] = []
        for cycle in range(60):
            asked.append((rng.randrange(DEPTH), rng.randrange(DEPTH)))
            for port, address in zip(memory.read, asked[-1], strict=True):
                ctx.set(port.en, 1)
                ctx.set(port.address, address)
            if cycle >= latency:
                found = [ctx.get(port.data) for port in memory.read]
                wrong += found != [words[address] for address in asked[cycle - latency]]
            await ctx.tick()

    simulate(memory, bench)
    assert (wrong == 0) == (latency == LATENCY), f"{wrong} of 60 cycles differ"


@pytest.mark.parametrize(("change", "message"), [
    ({"depth": 0}, "at least 1 word, not 0"), ({"ports": 0}, "at least 1 read port, not 0"),
    ({"init": [1 << 8]}, "does not fit 8 bits"),
])
def test_weight_memory_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightMemory(**{"width": 8, "depth": 4, "ports": 2, **change})
    gc.collect()  # while Amaranth's warning about what was never used is still ignored


@pytest.mark.parametrize("spoil", ["", "held", "grant"])
def test_shared_scratchpad(spoil: str) -> None:
    """Units come first and keep their last data; transfers take what is left, and their data lasts one cycle."""
    rng = random.Random(5)
    pad = SharedScratchpad(width=12, depth=DEPTH)
    words, held, brought = [0] * DEPTH, None, None
    wrong = 0

    async def bench(ctx: Any) -> None:
        nonlocal held, brought, wrong
        for _ in range(400):
            reads, writes = [rng.random() < 0.5 for _ in range(2)], [rng.random() < 0.4 for _ in range(2)]
            places = rng.sample(range(DEPTH), 4)  # a read never meets a write of its address
            values = [rng.getrandbits(12) for _ in range(2)]
            for port, en, address in zip((pad.read, pad.transfer_read), reads, places[:2], strict=True):
                ctx.set(port.en, en)
                ctx.set(port.address, address)
            for port, en, address, value in zip((pad.write, pad.transfer_write), writes, places[2:], values, strict=True):
                ctx.set(port.en, en)
                ctx.set(port.address, address)
                ctx.set(port.data, value)
            grants = ctx.get(pad.read_grant), ctx.get(pad.write_grant)
            wrong += grants != (int(not reads[0]), int(not writes[0]))
            if held is not None:
                wrong += ctx.get(pad.read.data) != held
            if brought is not None:
                wrong += ctx.get(pad.transfer_read.data) != brought
            await ctx.tick()
            if reads[0]:
                held = words[places[0]]
            elif spoil == "held" and reads[1]:
                held = words[places[1]]
            brought = words[places[1]] if reads[1] and (grants[0] or spoil == "grant") else None
            if writes[0] or (writes[1] and grants[1]):
                words[places[2] if writes[0] else places[3]] = values[0] if writes[0] else values[1]

    simulate(pad, bench)
    assert (wrong == 0) == (not spoil), f"{wrong} differences"
