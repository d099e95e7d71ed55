"""Holds a simulated run against the golden model: every layer boundary of every image, every logit, every layer's cycles."""
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwgen.descriptors import Kind
from hwgen.layout import Buffer
from hwgen.program import Program
from hwgen.schedule import LayerCycles, predict
from quantize.formats import STREAM_BITS
from sim.golden.gemm import patches
from sim.golden.network import Trace
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

    @property
    def cycles_per_image(self) -> float:
        """Mean measured cycles of an image."""
        return sum(sum(cycles.values()) for cycles in self.measured) / max(1, len(self.measured))

    @property
    def predicted_per_image(self) -> float:
        """Mean predicted cycles of an image."""
        return sum(sum(layer.cycles for layer in image) for image in self.predicted) / max(1, len(self.predicted))

    def line(self) -> str:
        """The one line that ends a run."""
        cycles = f"{self.cycles_per_image:.0f} cycles/image (predicted {self.predicted_per_image:.0f})"
        if self.failures:
            good = self.images - len(self.mismatched_images)
            return f"FAIL {good}/{self.images} images, {self.layers} layers; {cycles}: {self.failures[0]}"
        return f"PASS {self.images}/{self.images} images, {self.layers} layers, bit-exact; {cycles}"


def stored(trace: Trace, program: Program, images: NDArray[np.uint8]) -> dict[str, NDArray[np.integer]]:
    """What each buffer of the program holds, [B, T, C], by the golden model; "image": the pixels by patch."""
    out: dict[str, NDArray[np.integer]] = {"image": patches(images, program.network.model.patch)}
    for name in program.buffers:
        if name != "image":
            found = trace.outputs[name]
            out[name] = found["next"] if "next" in found else found["planes"] if "planes" in found else found["counts"]
    return out


def verify(program: Program, trace: Trace, images: NDArray[np.uint8], answer: Answer, trace_file: Path) -> Verdict:
    """Compare a run with the golden model's `trace` of the same images; nothing is tolerated."""
    verdict = Verdict(len(images), len(program.layers))
    expected = stored(trace, program, images)
    verdict.predicted = [predict(program, {name: values[index] for name, values in expected.items()})
                         for index in range(len(images))]
    checker = _Checker(program, trace, expected, verdict)
    checker.run(trace_file)
    logits = answer.array
    if logits.shape != trace.logits.shape:
        verdict.failures.append(f"logits of shape {list(logits.shape)}, expected {list(trace.logits.shape)}")
    else:
        for image, channel in np.argwhere(logits != trace.logits):
            checker.fail(int(image), f"head, class {channel}: logit {logits[image, channel]}, "
                                     f"expected {trace.logits[image, channel]}")
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
        """Note a failure of one image."""
        self.verdict.mismatched_images.add(image)
        self.verdict.failures.append(f"image {image}, {what}")

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
                measured[name] = record.cycle - started
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
        if image != self.verdict.images:
            self.verdict.failures.append(f"{image} images ran, expected {self.verdict.images}")

    def _image(self, image: int, measured: dict[str, int]) -> None:
        self.verdict.measured.append(measured)
        for layer in self.verdict.predicted[image]:
            if measured.get(layer.layer) != layer.cycles:
                self.fail(image, f"{layer.layer}: {measured.get(layer.layer)} cycles, predicted {layer.cycles}")

    def _layer(self, image: int, name: str, records: list[Record]) -> None:
        machine = self.program.machine
        buffer = self.program.buffers.get(name)
        addresses = np.array([a for record in records for a in record.spike_addresses], np.int64)
        words = unpack_words([w for record in records for w in record.spike_words], machine.lanes, machine.planes, False)
        if buffer is None:
            if len(addresses):
                self.fail(image, f"{name}: wrote {len(addresses)} spike words, expected none")
        else:
            self._spikes(image, name, buffer, addresses, words)
        self._stream(image, name, records)

    def _spikes(self, image: int, name: str, buffer: Buffer, addresses: Ints, words: Ints) -> None:
        if not self._covers(image, f"{name} (spikes)", addresses, buffer.base, buffer.size):
            return
        memory = np.empty((buffer.size, buffer.lanes), np.int64)
        memory[addresses - buffer.base] = words
        want = buffer.pack(self.expected[name][image][None])
        if (memory != want[0]).any():
            got, wanted = buffer.unpack(memory[None])[0], buffer.unpack(want)[0]
            bad = np.argwhere(got != wanted)
            if len(bad):
                token, channel = bad[0]
                self.fail(image, f"{name}, token {token}, channel {channel}: {got[token, channel]}, "
                                 f"expected {wanted[token, channel]} ({len(bad)} of {got.size} differ)")
            else:
                word, lane = np.argwhere(memory != want[0])[0]
                self.fail(image, f"{name}: unused lane {lane} of word {word} holds {memory[word, lane]}, expected 0")

    def _stream(self, image: int, name: str, records: list[Record]) -> None:
        machine = self.program.machine
        addresses = np.array([a for record in records for a in record.stream_addresses], np.int64)
        want = self.trace.outputs.get(name, {}).get("stream")
        if want is None:
            if len(addresses):
                self.fail(image, f"{name}: wrote {len(addresses)} residual words, expected none")
            return
        step = self.program.stream_words[name]
        if not self._covers(image, f"{name} (residual)", addresses, 0, step * want.shape[1]):
            return
        words = unpack_words([w for record in records for w in record.stream_words], machine.fire_lanes, STREAM_BITS, True)
        memory = np.empty((step * want.shape[1], machine.fire_lanes), np.int64)
        memory[addresses] = words
        got = memory.reshape(want.shape[1], -1)[:, :want.shape[2]]
        bad = np.argwhere(got != want[image])
        if len(bad):
            token, channel = bad[0]
            self.fail(image, f"{name} (residual), token {token}, channel {channel}: {got[token, channel]}, "
                             f"expected {want[image][token, channel]} ({len(bad)} of {got.size} differ)")

    def _covers(self, image: int, what: str, addresses: Ints, base: int, size: int) -> bool:
        if len(addresses) == size and np.array_equal(np.sort(addresses), np.arange(base, base + size)):
            return True
        self.fail(image, f"{what}: wrote {len(np.unique(addresses))} words between "
                         f"{addresses.min(initial=0)} and {addresses.max(initial=0)}, expected {size} from {base} on")
        return False
