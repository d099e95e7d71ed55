"""QCFS equals its formula and its gradient rule; integrate-and-fire neurons reproduce its counts."""
import math

import pytest
import torch

from model.neuron import IFNeuron, fire_exact
from model.qcfs import QCFS, qcfs, qcfs_count

torch.set_num_threads(1)


@pytest.mark.parametrize("levels", [1, 3, 7, 15])
def test_formula_element_by_element(levels: int) -> None:
    x = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(levels)) * 4
    threshold = torch.tensor(0.37, dtype=torch.float64)
    wanted = [min(max(math.floor(value / 0.37 + 0.5), 0), levels) for value in x.tolist()]
    assert {0, levels} <= set(wanted)
    assert qcfs_count(x, threshold, levels).tolist() == wanted
    assert qcfs(x, threshold, levels).tolist() == [count * 0.37 for count in wanted]


def test_a_charge_at_half_a_threshold_fires() -> None:
    threshold = torch.tensor(0.5)
    x = torch.tensor([0.2499, 0.25, 0.7499, 0.75])
    assert qcfs_count(x, threshold, 3).tolist() == [0, 1, 1, 2]
    assert fire_exact(x, threshold, 3).tolist() == [0, 1, 1, 2]


def test_gradient_passes_inside_the_clamp_only() -> None:
    act = QCFS(3, up=1.5)  # threshold 1/2
    x = torch.tensor([-0.1, 0.1, 0.6, 1.4, 1.6], requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (act(x) * weight).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 0]
    # d y / d threshold = count, less the charge x/threshold inside the clamp; times threshold for its logarithm
    slopes = [0, 0 - 0.2, 1 - 1.2, 3 - 2.8, 3]
    wanted = 0.5 * sum(w * s for w, s in zip(weight.tolist(), slopes, strict=True))
    assert act.log_threshold.grad is not None
    assert float(act.log_threshold.grad) == pytest.approx(wanted, rel=1e-5)


def test_threshold_is_up_over_levels_and_can_be_set() -> None:
    act = QCFS(7, up=2.0)
    assert float(act.threshold.detach()) == pytest.approx(2 / 7)
    act.set_threshold(0.25)
    assert float(act.threshold.detach()) == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_threshold_must_be_positive(bad: float) -> None:
    with pytest.raises(ValueError, match=f"threshold must be positive, not {bad}"):
        QCFS(7).set_threshold(bad)


def test_constructor_validates() -> None:
    with pytest.raises(ValueError, match="levels must be at least 1, not 0"):
        QCFS(0)
    with pytest.raises(ValueError, match="up must be positive, not -2"):
        QCFS(7, up=-2.0)


@pytest.mark.parametrize("levels", [1, 3, 7, 15])
def test_exact_neuron_fires_the_qcfs_count(levels: int) -> None:
    x = torch.randn(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * levels
    threshold = torch.tensor(0.61803, dtype=torch.float64)
    assert torch.equal(fire_exact(x, threshold, levels), qcfs_count(x, threshold, levels))


def test_stepwise_neuron_charges_fires_and_resets_softly() -> None:
    charges = [0.6, 0.6, -2.0, 0.3, 3.0, 0.0]
    neuron, spikes, potentials = IFNeuron(torch.tensor(1.0, dtype=torch.float64)), [], []
    for charge in charges:
        spikes.append(float(neuron.step(torch.tensor(charge, dtype=torch.float64))))
        assert neuron.v is not None
        potentials.append(float(neuron.v))
    assert spikes == [1, 0, 0, 0, 1, 1]
    assert potentials == pytest.approx([0.1, 0.7, -1.3, -1.0, 1.0, 0.0])
