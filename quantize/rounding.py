"""Rounding of a weight matrix to small integers, one threshold per row, errors of a row set against each other.

Weights are rounded one input after another; each error is made up for by the weights still to come, as far as the
inputs are expected to move together (the scheme of GPTQ, Frantar et al., ICLR 2023), and by the bias for their mean.
What is expected of the inputs (`Moments`) comes from BatchNorm statistics, not from images: an export needs no data.
"""
import math
from dataclasses import dataclass

import numpy as np

from quantize.fold import Affine, Floats

SEARCH = np.linspace(0.6, 1.3, 36)
"""Thresholds tried for a row, relative to the largest that clips no weight."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Expected mean [in] and covariance of the integer inputs of a layer: [in, in], or the variance [in] of independent ones."""

    mean: Floats
    covariance: Floats


def plain(mean: Floats, std: Floats, correlation: float = 0.0) -> Moments:
    """Inputs of `mean` and `std` [in], every two of them correlated by `correlation`."""
    if not correlation:
        return Moments(mean, std * std)
    shape = np.full((len(std), len(std)), correlation)
    np.fill_diagonal(shape, 1.0)
    return Moments(mean, shape * std * std[:, None])


def counts_after(norm: Affine, theta: float, levels: int) -> Moments:
    """Spike counts of neurons with threshold `theta` behind BatchNorm `norm`, its output taken as normal."""
    center, spread = norm.scale * norm.mean + norm.shift, np.maximum(np.abs(norm.scale * norm.std), 1e-9)
    mean, square = np.zeros(len(center)), np.zeros(len(center))
    for level in range(1, levels + 1):
        z = (center - (level - 0.5) * theta) / (spread * math.sqrt(2))
        reached = np.array([0.5 * math.erfc(-value) for value in z])
        mean += reached
        square += (2 * level - 1) * reached
    return plain(mean, np.sqrt(np.maximum(square - mean**2, 1e-4)))


def round_rows(matrix: Floats, top: int, threshold_max: int, moments: Moments) -> tuple[Floats, Floats]:
    """Integers [out, in] within +-top and thresholds [out], so that integers / threshold stands for `matrix`."""
    peak = np.abs(matrix).max(1)
    largest = np.minimum(top / np.maximum(peak, 1e-30), float(threshold_max))
    best, threshold, found = np.full(len(matrix), np.inf), np.ones(len(matrix)), np.zeros_like(matrix)
    # The threshold that clips nothing comes first, so that it wins a tie.
    for factor in (1.0, *SEARCH):
        tried = np.clip(np.floor(largest * factor), 1, threshold_max)
        rounded = _feedback(matrix * tried[:, None], top, moments.covariance)
        error = matrix - rounded / tried[:, None]
        carried = error * moments.covariance if moments.covariance.ndim == 1 else error @ moments.covariance
        cost = (carried * error).sum(1)
        better = cost < best
        best, threshold = np.where(better, cost, best), np.where(better, tried, threshold)
        found = np.where(better[:, None], rounded, found)
    return found, threshold


def _feedback(scaled: Floats, top: int, covariance: Floats) -> Floats:
    """`scaled` [out, in] rounded to integers within +-top with error feedback under `covariance` (see Moments)."""
    if covariance.ndim == 1:
        return np.clip(np.rint(scaled), -top, top)
    size = len(covariance)
    damped = covariance + np.eye(size) * 1e-3 * float(np.diag(covariance).mean())
    # Upper factor U of the inverse: input i's error goes to each later input j in proportion to U[i, j] / U[i, i].
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    work, rounded = scaled.copy(), np.empty_like(scaled)
    for column in range(size):
        rounded[:, column] = np.clip(np.rint(work[:, column]), -top, top)
        error = (work[:, column] - rounded[:, column]) / upper[column, column]
        work[:, column + 1:] -= np.outer(error, upper[column, column + 1:])
    return rounded
