"""What a stepwise machine is asked for: bounds that no input breaks, and refusals that name the knob and the remedy."""
import dataclasses
import itertools
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

import sim.golden.stepwise as stepwise
from hwgen.config import STEPS_MOST, MachineConfig, machine_config
from hwgen.descriptors import Kind
from hwgen.limits import CompileError, current_bound, potential_bound, stepwise_needs
from hwgen.potential import output_potential_bits, score_potential_bits
from hwgen.program import compile_network, demands
from model.config import AnyModel, ConfigError, MaskingConfig, ModelConfig, read_model
from quantize.formats import CURRENT_FRACTION, STREAM_BITS, limits
from quantize.layers import Attention, Gemm, Network
from quantize.random_network import random_images, random_network
from sim.golden.attention import geometry

STEPS = 5
MODELS: dict[str, AnyModel] = {
    "shifted windows": ModelConfig(8, 1, 3, 2, 8, (2,), (2,), 2, 2.0, 7),
    "one level": ModelConfig(6, 2, 4, 1, 4, (3,), (2,), 3, 1.0, 1),
    "convolutions": read_model({"kind": "vgg", "image_size": 8, "in_channels": 2, "classes": 5, "levels": 7, "widths": [6, 8],
                                "depths": [1, 2], "dense": [9]}),
}
MACHINE = MachineConfig(lanes=16, fire_lanes=4, planes=0, head_lanes=0, window_tokens=0, acc_bits=0, rom_bits=0,
                        firing="stepwise", steps=STEPS)


def gemms(network: Network) -> list[Gemm]:
    return [layer for layer in network.layers if isinstance(layer, Gemm)]


def worst_charges(layer: Gemm) -> list[np.ndarray]:
    """The largest and the smallest charge [C] that inputs of the layer's format give each channel."""
    low, high = limits(layer.in_bits, layer.in_signed)
    weight = layer.weight.astype(np.int64)
    return [(weight * np.where(weight > 0, above, below)).sum(axis=1) + layer.bias for above, below in ((high, low), (low, high))]


def reached(charge: np.ndarray, threshold: np.ndarray | int) -> int:
    """Largest |v| within STEPS steps of neurons that have the same charge in each, by the golden's neuron."""
    v, most = None, 0.0
    for _ in range(STEPS):
        spikes, v = stepwise.integrate(v, charge.astype(np.float64), threshold)
        most = max(most, float(np.abs(v + spikes * threshold).max()), float(np.abs(v).max()))
    return int(most)


@pytest.fixture(scope="module", params=MODELS)
def network(request: pytest.FixtureRequest) -> Network:
    return random_network(MODELS[request.param], 5)


def test_no_input_takes_a_potential_beyond_its_bound(network: Network) -> None:
    levels = network.model.levels
    for layer in gemms(network):
        bound = potential_bound(layer, levels, STEPS)
        for charge in worst_charges(layer):
            if layer.threshold is None:  # the head's sums: nothing fires
                assert STEPS * int(np.abs(charge).max()) <= bound, layer.name
            else:
                assert reached(charge, levels * layer.threshold) <= bound, layer.name
        if layer.norm is not None:
            stream = np.array(limits(STREAM_BITS, True))[:, None]
            turned = np.where(layer.norm.negate != 0, -stream, stream) + layer.norm.bias
            assert reached(turned, levels * layer.norm.threshold) <= bound, f"{layer.name}.norm"


def test_the_bound_of_a_potential_is_reached() -> None:
    head = Gemm("head", "head", 1, 1, np.array([[3, -2], [1, 1]]), np.array([7, -9]), None, 3, False)
    assert potential_bound(head, 7, STEPS) == STEPS * (5 * 7 + 9)
    assert potential_bound(dataclasses.replace(head, threshold=np.array([5, 1 << 19])), 7, 1) == 7 << 19
    # half a threshold and a charge of 44 in each step, with no spike before the last one
    slow = dataclasses.replace(head, weight=np.array([[3, 2]]), bias=np.array([9]), threshold=np.array([60]))
    assert reached(worst_charges(slow)[0], 7 * np.array([60])) == potential_bound(slow, 7, STEPS) == 7 * 60 // 2 + STEPS * 44


@pytest.mark.parametrize("lanes", [8, 16])
def test_every_neuron_has_a_potential_of_its_own(lanes: int) -> None:
    """Heads of 12 and 6 channels leave lanes of every word unused, so q, k and v take more tiles than their channels would."""
    model = ModelConfig(8, 1, 3, 2, 12, (1, 1), (1, 4), 2, 1.0, 7)
    program = compile_network(random_network(model, 1), dataclasses.replace(MACHINE, lanes=lanes, fire_lanes=4), MaskingConfig())
    for knob, base, used in (("neuron_potentials", "potential_base", lambda layer: True),
                             ("norm_potentials", "norm_base", lambda layer: layer.norm is not None)):
        words = [step.fields[base] + token * step.fields["potential_step"] + group for step in program.steps
                 if step.kind == Kind.GEMM and used(program.network.layer(step.layer))
                 for token in range(program.network.layer(step.layer).tokens) for group in range(step.fields["groups"] + 1)]
        assert len(set(words)) == len(words), "two neurons share one"
        assert max(words) < demands(program)[knob]


def attention_layers(network: Network) -> list[Attention]:
    return [layer for layer in network.layers if isinstance(layer, Attention)]


def largest_current(layer: Attention, levels: int) -> int:
    """The largest `(N << 16) // D` of any query, for all spikes of scores and v and every window mask. Windows of 2 x 2."""
    relative = geometry(layer).relative
    spikes = np.array(list(itertools.product((0, 1), repeat=4)))
    most = 0
    for head, query in np.ndindex(layer.heads, 4):
        num, den = (rom[head].astype(np.int64)[relative[query]][:, [0, levels]] for rom in (layer.rom_num, layer.rom_den))
        for a, allowed in itertools.product(spikes, spikes):
            if allowed[query]:  # a token is in its own region
                d = int((den[range(4), a] * allowed).sum())
                n = (num[range(4), a] * allowed * spikes).sum(axis=1).max()
                most = max(most, (int(n) << CURRENT_FRACTION) // d)
    return most


@pytest.mark.parametrize("seed", range(6))
def test_no_spikes_take_a_current_beyond_its_bound(seed: int) -> None:
    """Random ROMs; in half of them many denominators are 0, but a token's own is not."""
    generator = np.random.default_rng(seed)
    levels, size = (1, 3, 7)[seed % 3], (2, 9)
    shape = (*size, levels + 1)
    num, den = (generator.integers(0, 1 << 12, shape, dtype=np.int32) for _ in range(2))
    if seed % 2:
        den = den >> 9
    den[:, 4] = np.maximum(den[:, 4], 1)
    layer = Attention("attn", 4, 2, 4, 2, 1, 100, num, den)
    assert 0 < largest_current(layer, levels) <= current_bound(layer, levels)
    # where the largest quotient is a token's own, with itself alone, the bound is reached but for the rounding
    num[:, 4, levels], den[:, 4, levels], den[den == 0] = 1 << 12, 1, 1
    assert current_bound(layer, levels) == largest_current(layer, levels) + 1 == (1 << 28) + 1


def test_the_bounds_hold_in_whole_networks(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every potential of a run on black, white and random images, before and after its spike."""
    most: dict[str, float] = defaultdict(float)
    real = stepwise._Stepwise.step

    def step(self: Any, name: str, charge: Any, threshold: Any) -> Any:
        spikes = real(self, name, charge, threshold)
        most[name] = max(most[name], float(np.abs(self.state[name]).max()),
                         float(np.abs(self.state[name] + spikes * threshold).max()))
        return spikes

    monkeypatch.setattr(stepwise._Stepwise, "step", step)
    model = network.model
    drawn = random_images(model, 1, 2)
    images = np.concatenate([drawn, np.zeros_like(drawn[:1]), np.full_like(drawn[:1], (1 << model.in_bits) - 1)])
    logits = stepwise.run_stepwise(network, images, STEPS).logits
    machine = compile_network(network, MACHINE, MaskingConfig()).machine
    for layer in gemms(network):
        bound = potential_bound(layer, model.levels, STEPS)
        assert bound < 1 << machine.potential_bits - 1
        assert max(most[layer.name], most[f"{layer.name}.norm"]) <= bound, layer.name
        if layer.threshold is None:
            assert np.abs(logits).max() <= bound
    for attention in attention_layers(network):
        assert 0 < most[f"{attention.name}.scores"] < 1 << score_potential_bits(machine)
        assert 0 < most[attention.name] < 1 << output_potential_bits(machine)


def refused(network: Network, **knobs: object) -> str:
    """The one line with which a machine of these knobs refuses `network`."""
    with pytest.raises(CompileError) as error:
        compile_network(network, dataclasses.replace(MACHINE, **knobs), MaskingConfig())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_machine_too_small_names_the_knob_and_the_remedy(network: Network) -> None:
    planes, need = network.model.planes, stepwise_needs(network, STEPS)
    other = planes % 4 + 1
    assert refused(network, level_bits=other) == (f"levels = {network.model.levels} needs level_bits = {planes}, the machine has "
                                                  f"{other}: set [machine] level_bits = {planes}")
    bits = need["potential_bits"]
    assert refused(network, potential_bits=bits - 1) == (
        f"potential_bits: the network needs {bits} for {STEPS} time steps, the machine has {bits - 1}: "
        f"set [machine] potential_bits = {bits}, or fewer steps")
    compile_network(network, dataclasses.replace(MACHINE, potential_bits=bits), MaskingConfig())
    for knob, amount in demands(compile_network(network, MACHINE, MaskingConfig())).items():
        if knob.endswith("_potentials") and amount > 1:
            assert f"{knob}: the network needs {amount}, the machine has {amount - 1}" in refused(network, **{knob: amount - 1})


def test_a_current_too_wide_is_refused() -> None:
    network = random_network(MODELS["shifted windows"], 5)
    layers = [dataclasses.replace(layer, rom_num=np.full_like(layer.rom_num, 255), rom_den=np.ones_like(layer.rom_den))
              if isinstance(layer, Attention) else layer for layer in network.layers]
    wide = dataclasses.replace(network, layers=tuple(layers))
    assert stepwise_needs(wide, STEPS)["current_bits"] == 24
    assert "set [machine] current_bits = 24, or fewer steps" in refused(wide, current_bits=23)
    assert compile_network(wide, MACHINE, MaskingConfig()).machine.current_bits == 24


def test_steps_beyond_the_logits_are_refused(network: Network) -> None:
    head = gemms(network)[-1]
    large = dataclasses.replace(head, bias=np.full_like(head.bias, (1 << 27) - 1))
    heavy = dataclasses.replace(network, layers=(*network.layers[:-1], large))
    per_step = potential_bound(large, network.model.levels, 1)
    most = ((1 << 31) - 1) // per_step
    compile_network(heavy, dataclasses.replace(MACHINE, steps=most), MaskingConfig())
    assert refused(heavy, steps=most + 1) == (f"steps = {most + 1}: the sums of head would leave 32 bits: "
                                              "set [machine] steps lower")


def test_knobs_left_out_are_fitted(network: Network) -> None:
    table = machine_config({"firing": "stepwise", "steps": STEPS, "lanes": 16})
    machine, need = compile_network(network, table, MaskingConfig()).machine, stepwise_needs(network, STEPS)
    assert (machine.planes, machine.level_bits) == (1, network.model.planes)
    assert machine.potential_bits == max(20, need["potential_bits"])
    assert machine.current_bits == max(17, need["current_bits"])


@pytest.mark.parametrize(("table", "message"), [
    ({"planes": 3}, r"planes must be 1 where firing is 'stepwise' \(a spike has one bit\), not 3"),
    ({"memory_bits": 64}, r"memory_bits must be 0 where firing is 'stepwise' \(potentials stay on chip\), not 64"),
    ({"steps": 0}, f"steps must be 1 to {STEPS_MOST}, not 0"), ({"steps": STEPS_MOST + 1}, f"not {STEPS_MOST + 1}"),
    ({"level_bits": 5}, r"level_bits must be 0 \(auto\) to 4, not 5"), ({"level_bits": -1}, "not -1"),
    ({"potential_bits": 19}, r"potential_bits must be 0 \(auto\) or 20 to 48, not 19"), ({"potential_bits": 49}, "not 49"),
    ({"current_bits": 16}, r"current_bits must be 0 \(auto\) or 17 to 48, not 16"), ({"current_bits": 49}, "not 49"),
    ({"score_potentials": -1}, r"score_potentials must be 0 \(auto\) to 2\^20, not -1"),
    ({"firing": "spiking"}, "firing must be 'exact' or 'stepwise', not 'spiking'"), ({"firing": 1}, "firing must be str, not 1")])
def test_bad_machine_tables_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        machine_config({"firing": "stepwise"} | table)
