"""Fixed-point formats of the integer network: the one place that states them."""

WEIGHT_BITS = 8
"""Signed weights."""
PIXEL_BITS = 8
"""Unsigned input values on the image stream, one byte each; [model] in_bits says how many of them a network uses."""
THRESHOLD_BITS = 20
"""Unsigned thresholds, 1 .. 2^20 - 1 (of the neuron after a GEMM, of a norm fire and of the attention scores)."""
BIAS_BITS = 28
"""Signed biases of a GEMM or norm fire; the head's too."""
GAIN_BITS = 16
"""Signed residual gains."""
STREAM_BITS = 16
"""Signed residual stream."""
LOGIT_BITS = 32
"""Signed logits."""
SCORE_SHIFT = 8
"""Fractional bits of the attention scores' threshold."""
CURRENT_FRACTION = 16
"""Fractional bits of an attention output's current in `stepwise` mode: a quotient of one time step."""


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of a two's complement (or unsigned) format of `bits`."""
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
