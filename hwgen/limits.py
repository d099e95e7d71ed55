"""What a network asks of a machine's parameters, and whether a machine offers it."""

import numpy as np

from hwgen.config import MachineConfig
from quantize.check import accumulator_bound
from quantize.formats import CURRENT_FRACTION, LOGIT_BITS, STREAM_BITS
from quantize.layers import Attention, Gemm, Network


class CompileError(ValueError):
    """The network does not fit the machine: the message names the memory or parameter, the amount and the remedy."""


def needs(network: Network, m: MachineConfig) -> dict[str, int]:
    """What the network asks of the knobs of machine `m` that can be fitted to it."""
    attention = [layer for layer in network.layers if isinstance(layer, Attention)]
    gemms = [layer for layer in network.layers if isinstance(layer, Gemm)]
    wide = any(int(layer.weight.min()) < -8 or int(layer.weight.max()) > 7 for layer in gemms)
    return {
        "planes": 1 if m.stepwise else network.model.planes,
        "head_lanes": max((layer.head_size for layer in attention), default=1),
        "window_tokens": max((layer.window**2 for layer in attention), default=1),
        "acc_bits": max(accumulator_bound(layer).bit_length() + 1 for layer in gemms),
        "weight_bits": 8 if wide else 4,
        "rom_bits": network.rom_bits,
        **(stepwise_needs(network, m.steps) if m.stepwise else {}),
    }


def check_fits(network: Network, m: MachineConfig) -> None:
    """CompileError naming the knob to raise, if a parameter of machine `m` is too small for `network`."""
    model = network.model
    if m.stepwise:
        _check_stepwise(network, m)
    elif model.planes > m.planes:
        raise CompileError(
            f"levels = {model.levels} needs {model.planes} bit planes, the machine has {m.planes}: "
            f"set [machine] planes = {model.planes}"
        )
    for layer in network.layers:
        if isinstance(layer, Attention):
            n = layer.window**2
            if layer.head_size > m.head_lanes:
                raise CompileError(
                    f"{layer.name}: heads of {layer.head_size} channels, the attention unit takes "
                    f"{m.head_lanes}: set [machine] head_lanes = {layer.head_size}"
                )
            if n > m.window_tokens:
                raise CompileError(
                    f"{layer.name}: windows of {n} tokens, the attention unit takes "
                    f"{m.window_tokens}: set [machine] window_tokens = {n}"
                )
        else:
            _check_gemm(layer, m)
    if network.rom_bits > m.rom_bits:
        raise CompileError(
            f"ROM entries of {network.rom_bits} bits, the machine has {m.rom_bits}: set [machine] rom_bits = {network.rom_bits}"
        )


def _check_gemm(layer: Gemm, m: MachineConfig) -> None:
    low = -(1 << m.weight_bits - 1)
    if int(layer.weight.min()) < low or int(layer.weight.max()) >= -low:
        raise CompileError(f"{layer.name}: weights exceed {m.weight_bits} bits: set [machine] weight_bits = 8")
    worst = accumulator_bound(layer)
    bits = worst.bit_length() + 1
    if bits > m.acc_bits:
        raise CompileError(
            f"{layer.name}: sums reach {worst}, {bits} bits, the accumulators have {m.acc_bits}: set [machine] acc_bits = {bits}"
        )


def stepwise_needs(network: Network, steps: int) -> dict[str, int]:
    """What `network` asks of the knobs of a stepwise machine that runs up to `steps` time steps."""
    model = network.model
    potentials = [potential_bound(layer, model.levels, steps) for layer in network.layers if isinstance(layer, Gemm)]
    currents = [current_bound(layer, model.levels) for layer in network.layers if isinstance(layer, Attention)]
    return {"level_bits": model.planes, "potential_bits": max(potentials).bit_length() + 1,
            "current_bits": max(currents, default=1).bit_length()}


def potential_bound(layer: Gemm, levels: int, steps: int) -> int:
    """Largest |v| of the neurons of `layer` (of the head: of its sums) within `steps` time steps, for any input.

    Spikes of one step stand for `levels` counts, so a step's charge is at most what `exact` mode's is (docs/semantics.md, 6).
    """
    def reached(charge: int, threshold: int) -> int:
        return max(levels * threshold, (levels * threshold >> 1) + steps * charge)

    threshold = 0 if layer.threshold is None else int(layer.threshold.max())
    bound = reached(accumulator_bound(layer) + int(np.abs(layer.bias).max()), threshold)
    if layer.norm is None:
        return bound
    return max(bound, reached((1 << STREAM_BITS - 1) + int(np.abs(layer.norm.bias).max()), int(layer.norm.threshold.max())))


def current_bound(layer: Attention, levels: int) -> int:
    """Largest current `(N << 16) // D` of an attention output, for any spikes.

    N / D is at most the largest num / den of the entries with a den (their mediant), plus what entries without one add to N
    over the least den that a token has with itself.
    """
    num, den = (rom[:, :, [0, levels]].astype(np.int64) for rom in (layer.rom_num, layer.rom_den))
    own = max(1, int(den[:, num.shape[1] // 2].min()))
    some = den > 0
    with_den = int(((num[some] << CURRENT_FRACTION) // den[some]).max(initial=0)) + 1
    without = layer.window**2 * int(num[~some].max(initial=0)) << CURRENT_FRACTION
    return with_den + -(-without // own)


def _check_stepwise(network: Network, m: MachineConfig) -> None:
    for name, amount in stepwise_needs(network, m.steps).items():
        if name == "level_bits" and amount != m.level_bits:
            raise CompileError(f"levels = {network.model.levels} needs level_bits = {amount}, the machine has {m.level_bits}: "
                               f"set [machine] level_bits = {amount}")
        if amount > getattr(m, name):
            have = getattr(m, name)
            raise CompileError(f"{name}: the network needs {amount} for {m.steps} time steps, the machine has {have}: "
                               f"set [machine] {name} = {amount}, or fewer steps")
    head = next(layer for layer in network.layers if isinstance(layer, Gemm) and layer.threshold is None)
    if potential_bound(head, network.model.levels, m.steps) >= 1 << LOGIT_BITS - 1:
        raise CompileError(f"steps = {m.steps}: the sums of {head.name} would leave {LOGIT_BITS} bits: set [machine] steps lower")
