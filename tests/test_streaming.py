"""Programs for external memory: space on chip, cuts, and that no order that the counts allow can go wrong."""
import dataclasses
import random
from fractions import Fraction

import numpy as np
import pytest

from hwgen.config import MachineConfig
from hwgen.descriptors import TRANSFER, Kind, Memory, unpack
from hwgen.limits import CompileError
from hwgen.pool import Pool, Space
from hwgen.program import compile_network
from hwgen.schedule import predict
from hwgen.steps import Program
from hwgen.timeline import MemoryTiming, run_timeline
from hwgen.traffic import traffic
from model.config import ConfigError, MaskingConfig, ModelConfig
from quantize.layers import Attention, Network
from quantize.random_network import random_images, random_network
from sim.golden.network import run as run_golden
from sim.verify import stored

MODELS = {
    "two": ModelConfig(image_size=16, in_channels=3, classes=5, patch=2, embedding=16, depths=(2, 1), heads=(2, 4), window=2,
                       mlp_ratio=2.0, levels=7),
    "three": ModelConfig(image_size=24, in_channels=1, classes=3, patch=2, embedding=8, depths=(2, 1, 1), heads=(1, 2, 2),
                         window=3, mlp_ratio=1.0, levels=3),
}
MACHINES = {
    "small": MachineConfig(lanes=16, fire_lanes=4, memory_bits=64, spike_words=160, stream_words=128),
    "rows": MachineConfig(lanes=16, fire_lanes=4, memory_bits=64, spike_words=230, stream_words=200, weight_rows=300,
                          param_words=60),
    "wide": MachineConfig(lanes=32, fire_lanes=8, memory_bits=512, memory_burst=4, spike_words=220, stream_words=130),
    "tall": MachineConfig(lanes=16, fire_lanes=4, memory_bits=64, spike_words=300, stream_words=250),
    "whole": MachineConfig(lanes=16, fire_lanes=4, memory_bits=128, spike_words=2000, stream_words=2000),
}
CASES = [("two", "small"), ("two", "rows"), ("two", "wide"), ("two", "whole"), ("three", "rows"), ("three", "tall"),
         ("three", "whole")]


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {name: random_network(model, 3) for name, model in MODELS.items()}


def compiled(networks: dict[str, Network], model: str, machine: str, **knobs: object) -> Program:
    return compile_network(networks[model], dataclasses.replace(MACHINES[machine], **knobs), MaskingConfig())


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def program(request: pytest.FixtureRequest, networks: dict[str, Network]) -> Program:
    return compiled(networks, *request.param)


# -- space on chip -------------------------------------------------------------------------------------------------------


def test_pool_gives_the_space_that_is_free_soonest() -> None:
    pool = Pool("spike_words", 10)
    first, second = pool.must(4, "a"), pool.must(4, "b")
    assert (first.base, second.base) == (0, 4)
    pool.give(first, steps=7, writes=2)
    pool.give(second, steps=3)
    third = pool.must(4, "c")
    assert (third.base, third.steps, third.writes) == (4, 3, 0) or third.base == 6
    assert pool.take(8) is None, "what is held is not given twice"
    whole = Pool("x", 4)
    old = whole.must(4, "a")
    whole.give(old, steps=5, writes=6)
    assert dataclasses.astuple(whole.must(2, "b"))[2:4] == (5, 6), "a part of it waits as the whole did"


def test_pool_ends_and_pairs() -> None:
    pool = Pool("spike_words", 12)
    high = pool.take(3, end="high")
    assert high is not None and high.base == 9
    assert pool.take(4, end="high") is None
    both = pool.take_both(4, 5)
    assert both is not None and {both[0].base, both[1].base} in ({0, 4}, {5, 0})
    assert pool.take_both(1, 1) is None and pool.take(1) is None, "a pair that does not fit holds nothing"
    pool.give(both[0], 1)
    assert pool.take_both(2, 3) is None
    assert pool.take_both(2, 2) is not None
    with pytest.raises(CompileError, match=r"spike_words: a map needs 5 words .* has 12: set \[machine\] spike_words"):
        pool.must(5, "a map")


def test_pool_never_overlaps() -> None:
    rng = random.Random(1)
    pool, held = Pool("x", 64), list[Space]()
    free = [0] * 64
    for step in range(1, 800):
        if held and rng.random() < 0.5:
            space = held.pop(rng.randrange(len(held)))
            pool.give(space, step)
            free[space.base:space.end] = [step] * space.size
            continue
        space_or_none = pool.take(rng.randint(1, 20))
        if space_or_none is not None:
            assert all(other.end <= space_or_none.base or space_or_none.end <= other.base for other in held)
            assert space_or_none.steps == max(free[space_or_none.base:space_or_none.end])
            held.append(space_or_none)


# -- order ---------------------------------------------------------------------------------------------------------------


class Hazard(AssertionError):
    """A step or a transfer met other words than it was meant for."""


class Chip:
    """Runs a program's descriptors and transfers on names instead of numbers."""

    def __init__(self, program: Program) -> None:
        self.program = program
        depth = {Memory.SPIKES: program.machine.spike_words, Memory.STREAM: program.machine.stream_words}
        self.words: dict[Memory, list[object]] = {memory: [None] * size for memory, size in depth.items()}
        self.outside: dict[int, list[object]] = {}
        self.steps = self.reads = self.writes = 0

    def read(self) -> bool:
        """The next read, if the counts allow it."""
        if self.reads == len(self.program.reads):
            return False
        move = self.program.reads[self.reads]
        if self.steps < move.steps or self.writes < move.writes:
            return False
        if move.memory in self.words:
            found = self.outside.get(move.address, [None])
            for index in range(move.words):  # a move may bring several that were written apart
                if index and move.address + self._beats(move, index) in self.outside and index % len(found) == 0:
                    found = self.outside[move.address + self._beats(move, index)]
                self.words[move.memory][move.local + index] = found[index % len(found)]
        self.reads += 1
        return True

    def _beats(self, move: object, words: int) -> int:
        return words * move.beats // move.words  # type: ignore[attr-defined]

    def write(self) -> bool:
        """The next write, if the counts allow it."""
        if self.writes == len(self.program.writes):
            return False
        move = self.program.writes[self.writes]
        if self.steps < move.steps:
            return False
        words = self.words[move.memory][move.local:move.local + move.words]
        each = move.words // max(1, self._rows(move))
        for row in range(self._rows(move)):
            self.outside[move.address + self._beats(move, row * each)] = words[row * each:(row + 1) * each]
        self.writes += 1
        return True

    def _rows(self, move: object) -> int:
        """Rows of tokens in a move, by the layer's map."""
        layer = move.layer  # type: ignore[attr-defined]
        side = round(self.program.buffers[layer].tokens**0.5)
        per_token = self.program.buffers[layer].token_words if move.memory == Memory.SPIKES \
            else self.program.stream_words[layer]  # type: ignore[attr-defined]
        return move.words // (side * per_token)  # type: ignore[attr-defined]

    def step(self) -> bool:
        """The next descriptor, if the counts allow it: checks what it reads, leaves what it writes."""
        step = self.program.steps[self.steps]
        if self.reads < step.reads or self.writes < step.writes or step.kind == Kind.END:
            return False
        buffers, spikes = self.program.buffers, self.words[Memory.SPIKES]
        if step.inputs is not None:
            size = buffers[step.inputs.name].token_words
            for place, token in enumerate(step.inputs.tokens):
                base = step.inputs.base + place * size
                want = [(step.inputs.name, int(token), word) for word in range(size)]
                if spikes[base:base + size] != want:
                    raise Hazard(f"{step.layer}: token {token} of {step.inputs.name} is not there: {spikes[base]}")
        if step.residual is not None:
            size, stream = self.program.stream_words[step.layer], self.words[Memory.STREAM]
            stage = (len(step.residual.tokens), buffers[step.layer].tokens)
            tile = step.fields["stream_base"] - step.residual.base
            for place, token in enumerate(step.residual.tokens):
                at = step.residual.base + place * size + tile
                if not step.fields["fresh"] and (not isinstance(stream[at], tuple) or stream[at][1] != int(token)):
                    raise Hazard(f"{step.layer}: residual of token {token} is not there: {stream[at]}")
                for word in range(step.fields["groups"] + 1):
                    stream[at + word] = (stage[1], int(token), tile + word)
        if step.outputs is not None:
            size = buffers[step.outputs.name].token_words
            for place, token in enumerate(step.outputs.tokens):
                for word in range(size):
                    tile = word % buffers[step.outputs.name].words
                    if step.kind != Kind.GEMM or tile == step.fields["out_base"] - step.outputs.base:
                        spikes[step.outputs.base + place * size + word] = (step.outputs.name, int(token), word)
        self.steps += 1
        return True

    def run(self, order: str) -> None:
        """All of it; `order` names who goes first: any of "r", "w", "s"."""
        acts = {"r": self.read, "w": self.write, "s": self.step}
        while self.steps < len(self.program.steps) - 1 or self.writes < len(self.program.writes):
            if not any(acts[who]() for who in order):
                raise Hazard(f"everything waits: step {self.steps}, read {self.reads}, write {self.writes}")


@pytest.mark.parametrize("order", ["rsw", "rws", "srw", "swr", "wrs", "wsr"])
def test_no_order_goes_wrong(program: Program, order: str) -> None:
    """Reads as early as they may and writes as late, and every other preference: each step meets its own inputs."""
    Chip(program).run(order)


def test_a_missing_wait_is_seen(networks: dict[str, Network]) -> None:
    """The interpreter can fail: every kind of wait is taken away once, one after the other, until one goes wrong."""
    for field in ("steps", "writes"):
        caught = 0
        original = compiled(networks, "two", "small")
        for index in range(len(original.reads)):
            program = dataclasses.replace(original, reads=list(original.reads))
            program.reads[index] = dataclasses.replace(program.reads[index], **{field: 0})
            for order in ("rsw", "rws"):
                try:
                    Chip(program).run(order)
                except Hazard:
                    caught += 1
                    break
        assert caught > 0, f"no wait for {field} was ever needed"


def test_end_waits_for_everything(program: Program) -> None:
    end = program.steps[-1]
    assert end.kind == Kind.END and (end.reads, end.writes) == (len(program.reads), len(program.writes))
    for words, moves in ((program.images.reads, program.reads), (program.images.writes, program.writes)):
        assert [unpack(TRANSFER, word)["kind"] for word in words] == [1] * len(moves) + [0]
        assert [unpack(TRANSFER, word)["words"] + 1 for word in words[:-1]] == [move.words for move in moves]


# -- cuts and traffic ----------------------------------------------------------------------------------------------------


def test_every_token_is_run_once(program: Program) -> None:
    for layer in program.network.layers:
        steps = [step for step in program.steps if step.layer == layer.name]
        parts = {id(step.outputs): step.outputs for step in steps if step.outputs is not None}
        tokens = np.concatenate([part.tokens for part in parts.values()]) if parts else np.arange(layer.tokens)
        assert sorted(tokens.tolist()) == list(range(layer.tokens)), layer.name
        tiles = 1 if isinstance(layer, Attention) else len(program.buffers[layer.name].channel_map) if parts else len(steps)
        assert len(steps) == max(1, len(parts)) * tiles, layer.name


def test_traffic_adds_up(program: Program) -> None:
    found = traffic(program)
    size = program.machine.memory_bits // 8
    moved = sum(move.beats for move in program.reads) + sum(move.beats for move in program.writes)
    assert sum(layer.total for layer in found.values()) == moved * size
    constants = sum(layer.constants for layer in found.values())
    assert constants >= len(program.images.external) - len(found) * 2 * program.machine.memory_burst * size
    assert len(program.images.external) <= program.external_beats * size


def test_a_whole_network_moves_only_constants(networks: dict[str, Network]) -> None:
    program = compiled(networks, "two", "whole")
    assert program.writes == [] and {move.memory for move in program.reads} <= {
        Memory.WEIGHTS, Memory.PARAMS, Memory.BRANCHES, Memory.ROM}
    assert all(found.chunks == 1 for found in traffic(program).values())


def test_larger_scratchpads_move_less(networks: dict[str, Network]) -> None:
    moved = [sum(found.total for found in traffic(compiled(networks, "two", "small", spike_words=words)).values())
             for words in (160, 224, 2000)]
    assert moved[0] >= moved[1] >= moved[2]


@pytest.mark.parametrize(("knobs", "message"), [
    ({"spike_words": 100}, r"last stage must stay on chip for the head: set \[machine\] spike_words .* not 100"),
    ({"stream_words": 30}, r"spike_words and stream_words to at least \d+ and \d+, not 160 and 30"),
    ({"weight_rows": 20}, r"weight_rows: a tile of .* needs \d+ words beside what is in use, the machine has 20"),
    ({"rom_words": 50}, r"rom_words: a tile of .*: set \[machine\] rom_words higher"),
])
def test_what_does_not_fit_is_refused(networks: dict[str, Network], knobs: dict[str, int], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        compiled(networks, "two", "small", **knobs)


@pytest.mark.parametrize(("knobs", "message"), [
    ({"memory_bits": 96}, "memory_bits must be 0 .none., 64, 128, 256 or 512, not 96"),
    ({"memory_bits": 512, "memory_burst": 128}, "4 KiB, not 128 of 512 bits"),
    ({"memory_bits": 64, "memory_outstanding": 0}, "memory_outstanding must be 1 to 64, not 0"),
    ({"memory_bits": 64, "weights": "initialised"}, "weights must be 'loadable' where memory_bits is 64"),
])
def test_knobs_are_checked(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(**knobs)  # type: ignore[arg-type]


# -- time ----------------------------------------------------------------------------------------------------------------


def test_timeline_is_never_faster_than_memory_or_array(program: Program) -> None:
    images = random_images(program.network.model, 5, 1)
    values = {name: found[0] for name, found in stored(run_golden(program.network, images), program, images).items()}
    beats = sum(move.beats for move in program.reads) + sum(move.beats for move in program.writes)
    fast = predict(program, values, MemoryTiming(1))
    busy = sum(layer.cycles - layer.stalls for layer in fast)
    before = 0
    for bandwidth in (Fraction(1), Fraction(1, 4), Fraction(1, 16)):
        found = predict(program, values, MemoryTiming(20, bandwidth))
        cycles = sum(layer.cycles for layer in found)
        assert cycles >= max(busy, beats / bandwidth, before)
        assert cycles - sum(layer.stalls for layer in found) == busy
        before = cycles


def test_a_program_that_cannot_go_on_is_named(networks: dict[str, Network]) -> None:
    program = compiled(networks, "two", "small")
    program.steps[3].reads = len(program.reads) + 1
    with pytest.raises(AssertionError, match="waits for ever at descriptor 3"):
        run_timeline(program, [100] * (len(program.steps) - 1), MemoryTiming())
