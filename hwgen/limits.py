"""What a network asks of a machine's parameters, and whether a machine offers it."""

from hwgen.config import MachineConfig
from quantize.check import accumulator_bound
from quantize.layers import Attention, Gemm, Network


class CompileError(ValueError):
    """The network does not fit the machine: the message names the memory or parameter, the amount and the remedy."""


def needs(network: Network) -> dict[str, int]:
    """What the network asks of the knobs that can be fitted to it."""
    attention = [layer for layer in network.layers if isinstance(layer, Attention)]
    gemms = [layer for layer in network.layers if isinstance(layer, Gemm)]
    wide = any(int(layer.weight.min()) < -8 or int(layer.weight.max()) > 7 for layer in gemms)
    return {
        "planes": network.model.planes,
        "head_lanes": max((layer.head_size for layer in attention), default=1),
        "window_tokens": max((layer.window**2 for layer in attention), default=1),
        "acc_bits": max(accumulator_bound(layer).bit_length() + 1 for layer in gemms),
        "weight_bits": 8 if wide else 4,
        "rom_bits": network.rom_bits,
    }


def check_fits(network: Network, m: MachineConfig) -> None:
    """CompileError naming the knob to raise, if a parameter of machine `m` is too small for `network`."""
    model = network.model
    if model.planes > m.planes:
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
