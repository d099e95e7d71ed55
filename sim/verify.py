"""Holds a simulated run against the golden model: every layer boundary of every image, every logit, every layer's cycles."""
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.config import MachineConfig
from hwgen.descriptors import After, Kind
from hwgen.schedule import LayerCycles, predict
from hwgen.steps import Part, Program, Step
from hwgen.timeline import MemoryTiming
from model.masking import SpikeMask
from quantize.formats import STREAM_BITS
from quantize.layers import Network
from sim.golden.gemm import patches
from sim.golden.network import Trace, run
from sim.golden.stepwise import run_stepwise
from sim.job import Answer
from sim.trace_file import Record, read_trace, unpack_words

Ints = NDArray[np.int64]


@dataclass(slots=True)
class Verdict:
    """Outcome of a run. `failures`: one line each, the first is where data went wrong first."""

    images: int
    layers: int
    failures: list[str] = field(default_factory=list)
    mismatched_images: set[int] = field(default_factory=set)
    measured: list[dict[str, int]] = field(default_factory=list)
    """cycles of each layer, one dict per image"""
    predicted: list[list[LayerCycles]] = field(default_factory=list)
    stalls: int = 0
    """cycles of the run in which only external memory kept a descriptor waiting"""
    steps: int = 1
    """time steps of an image: `measured` and `predicted` have an entry for each image and step"""

    @property
    def cycles_per_image(self) -> float:
        """Mean measured cycles of an image."""
        return sum(sum(cycles.values()) for cycles in self.measured) * self.steps / max(1, len(self.measured))

    @property
    def predicted_per_image(self) -> float:
        """Mean predicted cycles of an image."""
        total = sum(sum(layer.cycles for layer in image) for image in self.predicted)
        return total * self.steps / max(1, len(self.predicted))

    def line(self) -> str:
        """The one line that ends a run."""
        cycles = f"{self.cycles_per_image:.0f} cycles/image (predicted {self.predicted_per_image:.0f})"
        layers = f"{self.layers} layers" + (f" in {self.steps} time steps" if self.steps > 1 else "")
        if self.failures:
            good = self.images - len(self.mismatched_images)
            return f"FAIL {good}/{self.images} images, {layers}; {cycles}: {self.failures[0]}"
        return f"PASS {self.images}/{self.images} images, {layers}, bit-exact; {cycles}"


def time_steps(machine: MachineConfig, steps: int | None) -> int:
    """Time steps of an image on `machine`: `steps`, or all that it has; 1 where it fires `exact`. ValueError: not to be had."""
    if steps is None:
        return machine.steps if machine.stepwise else 1
    if not machine.stepwise:
        raise ValueError(f"steps = {steps}: this machine fires in one step: set [machine] firing = \"stepwise\"")
    if not 1 <= steps <= machine.steps:
        raise ValueError(f"steps must be 1 to {machine.steps} on this machine, not {steps}: [machine] steps says how many it has")
    return steps


def golden_trace(network: Network, machine: MachineConfig, images: NDArray[np.uint8], *, mask: SpikeMask | None = None,
                 first_image: int = 0, steps: int = 1) -> Trace:
    """What `machine` must store, by the golden model; of a stepwise one `StepTrace.runs()` of `steps` time steps."""
    if machine.stepwise:
        return run_stepwise(network, images, steps, mask=mask, first_image=first_image, keep=True).runs()
    return run(network, images, mask=mask, first_image=first_image)


def golden_logits(network: Network, machine: MachineConfig, images: NDArray[np.uint8], *, mask: SpikeMask | None = None,
                  first_image: int = 0, steps: int = 1) -> Ints:
    """The logits [B, classes] alone, in bounded memory."""
    if machine.stepwise:
        return run_stepwise(network, images, steps, mask=mask, first_image=first_image).logits[-1]
    return run(network, images, mask=mask, first_image=first_image, keep=False).logits.astype(np.int64)


def stored(trace: Trace, program: Program, images: NDArray[np.uint8]) -> dict[str, NDArray[np.integer]]:
    """What each buffer of the program holds, [B, T, C], by the golden model; "image": the pixels by patch."""
    out: dict[str, NDArray[np.integer]] = {"image": patches(images, program.network.model.patch)}
    for name in program.buffers:
        if name != "image":
            found = trace.outputs[name]
            out[name] = found["next"] if "next" in found else found["planes"] if "planes" in found else found["counts"]
    return out


def verify(program: Program, trace: Trace, images: NDArray[np.uint8], answer: Answer, trace_file: Path,
           memory: MemoryTiming | None = None, *, steps: int = 1) -> Verdict:
    """Compare a run with the golden model's `trace` of the same images; nothing is tolerated.

    `memory`: of a machine with external memory; its predicted cycles are a model, reported and not compared. `steps`: of a
    stepwise machine, time steps of an image; `trace` is then `StepTrace.runs()`.
    """
    verdict = Verdict(len(images), len(program.layers), stalls=answer.stalls, steps=steps)
    expected = stored(trace, program, images.repeat(steps, axis=0))
    verdict.predicted = [
        predict(program, {name: values[run] for name, values in expected.items()}, memory, initial=run % steps == 0,
                last_step=run % steps == steps - 1)
        for run in range(len(images) * steps)]
    checker = _Checker(program, trace, expected, verdict)
    checker.run(trace_file)
    logits, sums = answer.array, trace.logits[steps - 1::steps]
    if logits.shape != sums.shape:
        verdict.failures.append(f"logits of shape {list(logits.shape)}, expected {list(sums.shape)}")
    else:
        for image, channel in np.argwhere(logits != sums):
            checker.fail(int(image) * steps + steps - 1, f"head, class {channel}: logit {logits[image, channel]}, "
                                                         f"expected {sums[image, channel]}")
    total = sum(sum(cycles.values()) for cycles in verdict.measured)
    if answer.cycles != total:
        verdict.failures.append(f"the CYCLES register says {answer.cycles}, the trace {total}")
    events = sum(layer.events for image in verdict.predicted for layer in image)
    if answer.events != events:
        verdict.failures.append(f"the EVENTS register says {answer.events}, the golden model {events}")
    return verdict


class _Checker:
    def __init__(self, program: Program, trace: Trace, expected: dict[str, NDArray[np.integer]], verdict: Verdict) -> None:
        self.program, self.trace, self.expected, self.verdict = program, trace, expected, verdict

    def fail(self, image: int, what: str) -> None:
        """Note a failure of one image; `image` counts time steps too, as everywhere in this class."""
        image, step = divmod(image, self.verdict.steps)
        self.verdict.mismatched_images.add(image)
        when = f", time step {step}" if self.verdict.steps > 1 else ""
        self.verdict.failures.append(f"image {image}{when}, {what}")

    def run(self, trace_file: Path) -> None:
        """Walk the trace image by image, layer by layer."""
        steps = self.program.steps
        image, at, started = 0, 0, -1
        current: list[Record] = []
        measured: dict[str, int] = {}
        for record in read_trace(trace_file):
            layer = steps[record.descriptor].layer if record.descriptor >= 0 else ""
            if current and layer != steps[current[0].descriptor].layer:
                name = steps[current[0].descriptor].layer
                self._layer(image, name, current)
                measured[name] = measured.get(name, 0) + record.cycle - started
                started, current = record.cycle, []
            if record.descriptor < 0:
                break
            if record.descriptor != at:
                self.fail(image, f"descriptor {record.descriptor} was dispatched, expected {at}")
                return
            if steps[at].kind == Kind.END:
                self._image(image, measured)
                image, at, measured = image + 1, 0, {}
                continue
            current.append(record)
            at += 1
        if image != self.verdict.images * self.verdict.steps:
            what = "images" if self.verdict.steps == 1 else "time steps"
            self.verdict.failures.append(f"{image} {what} ran, expected {self.verdict.images * self.verdict.steps}")

    def _image(self, image: int, measured: dict[str, int]) -> None:
        self.verdict.measured.append(measured)
        for layer in self.verdict.predicted[image]:
            if self.program.machine.memory_bits:
                continue  # a model of transfers, not exact: see hwgen.timeline
            if measured.get(layer.layer) != layer.cycles:
                self.fail(image, f"{layer.layer}: {measured.get(layer.layer)} cycles, predicted {layer.cycles}")

    def _layer(self, image: int, name: str, records: list[Record]) -> None:
        """All descriptors of a layer: what they wrote, part by part (where all is on chip: one)."""
        steps = [self.program.steps[record.descriptor] for record in records]
        kept = name == "image" and image % self.verdict.steps > 0  # a later time step finds it where it is
        if kept or all(step.outputs is None for step in steps):
            written = [address for record in records for address in record.spike_addresses]
            # a layer that hands nothing on leaves a word for each token and tile at a place that nobody reads
            idle = [] if kept else [step.fields["out_base"] for step in steps if step.fields["after"] != After.LOGITS
                                    for _ in range(self.program.network.layer(name).tokens)]
            if written != idle:
                self.fail(image, f"{name}: wrote {len(written)} spike words between {min(written, default=0)} and "
                                 f"{max(written, default=0)}, expected {f'{len(idle)} at {idle[0]}' if idle else 'none'}")
        if kept:
            return
        start = 0
        for end in range(1, len(steps) + 1):
            if end == len(steps) or steps[end].outputs is not steps[start].outputs:
                self._part(image, name, steps[start], records[start:end])
                start = end

    def _part(self, image: int, name: str, step: Step, records: list[Record]) -> None:
        if step.outputs is not None:
            self._spikes(image, name, step.outputs, records)
        self._stream(image, name, step.residual, records)

    def _spikes(self, image: int, name: str, part: Part, records: list[Record]) -> None:
        machine = self.program.machine
        buffer = dataclasses.replace(self.program.buffers[name], tokens=len(part.tokens))
        addresses = np.array([a for record in records for a in record.spike_addresses], np.int64)
        if not self._covers(image, f"{name} (spikes)", addresses, part.base, buffer.size):
            return
        words = unpack_words([w for record in records for w in record.spike_words], machine.lanes, machine.planes, False)
        memory = np.empty((buffer.size, buffer.lanes), np.int64)
        memory[addresses - part.base] = words
        expected = self.expected[name][image][part.tokens]
        want = buffer.pack(expected[None])
        if (memory != want[0]).any():
            got, wanted = buffer.unpack(memory[None])[0], buffer.unpack(want)[0]
            bad = np.argwhere(got != wanted)
            if len(bad):
                token, channel = bad[0]
                self.fail(image, f"{name}, token {part.tokens[token]}, channel {channel}: {got[token, channel]}, "
                                 f"expected {wanted[token, channel]} ({len(bad)} of {got.size} differ)")
            else:
                word, lane = np.argwhere(memory != want[0])[0]
                self.fail(image, f"{name}: unused lane {lane} of word {word} holds {memory[word, lane]}, expected 0")

    def _stream(self, image: int, name: str, part: Part | None, records: list[Record]) -> None:
        machine = self.program.machine
        addresses = np.array([a for record in records for a in record.stream_addresses], np.int64)
        want = self.trace.outputs.get(name, {}).get("stream")
        if want is None or part is None:
            if len(addresses):
                self.fail(image, f"{name}: wrote {len(addresses)} residual words, expected none")
            return
        tokens = len(part.tokens)
        step = self.program.stream_words[name]
        if not self._covers(image, f"{name} (residual)", addresses, part.base, step * tokens):
            return
        words = unpack_words([w for record in records for w in record.stream_words], machine.fire_lanes, STREAM_BITS, True)
        memory = np.empty((step * tokens, machine.fire_lanes), np.int64)
        memory[addresses - part.base] = words
        got, wanted = memory.reshape(tokens, -1)[:, :want.shape[2]], want[image][part.tokens]
        bad = np.argwhere(got != wanted)
        if len(bad):
            token, channel = bad[0]
            self.fail(image, f"{name} (residual), token {part.tokens[token]}, channel {channel}: {got[token, channel]}, "
                             f"expected {wanted[token, channel]} ({len(bad)} of {got.size} differ)")

    def _covers(self, image: int, what: str, addresses: Ints, base: int, size: int) -> bool:
        if len(addresses) == size and np.array_equal(np.sort(addresses), np.arange(base, base + size)):
            return True
        self.fail(image, f"{what}: wrote {len(np.unique(addresses))} words between "
                         f"{addresses.min(initial=0)} and {addresses.max(initial=0)}, expected {size} from {base} on")
        return False
