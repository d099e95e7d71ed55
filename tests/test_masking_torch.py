"""The spike mask in torch equals numpy's, bit for bit; ratios by site and by block reach every network alike."""
import numpy as np
import pytest
import torch

from model import masking, masking_torch
from model.config import SITES, MaskingConfig, ModelConfig
from model.masking import SpikeMask, mask_rows
from model.mst import MST
from model.neuron import SITE_OF, Engine, LfsrMasks, PlanEngine

SEED = 0x2545F491
IMAGES = np.array([0, 3, SEED, 2**32 - 1, 77])
PLACES = [(0, 1, 1), (5, 33, 31), (9000, 70, 100), (77, 129, 260), (3, 400, 33), (40000, 2, 4096)]
SHAPE = ModelConfig(image_size=16, in_channels=1, classes=3, patch=2, embedding=8, depths=(2, 1), heads=(2, 2), window=4,
                    mlp_ratio=2.0, levels=7)
MIXED = MaskingConfig(("q", "scores"), 0.5, SEED, (("fc1", 0.25), ("s0.b1.fc2", 0.75), ("s0.b1.q", 0.0), ("s1.b0.fc1", 0.875)))
EXPECTED = {("s0.b0", "q"): 128, ("s0.b1", "q"): 0, ("s1.b0", "q"): 128, ("s0.b0", "k"): 0, ("s0.b0", "scores"): 128,
            ("s0.b0", "fc1"): 64, ("s0.b1", "fc1"): 64, ("s1.b0", "fc1"): 224, ("s0.b0", "fc2"): 0, ("s0.b1", "fc2"): 192}


def devices() -> list[object]:
    gone = not torch.cuda.is_available()
    return ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(gone, reason="no CUDA device: run this test on a GPU machine"))]


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize(("row", "rows", "columns"), PLACES)
def test_draws_equal_numpys(row: int, rows: int, columns: int, device: str) -> None:
    wanted = masking.draws(SEED, IMAGES, row, rows, columns)
    found = masking_torch.draws(SEED, torch.from_numpy(IMAGES).to(device), row, rows, columns)
    assert found.device.type == device
    assert np.array_equal(found.cpu().numpy(), wanted)


def test_a_wrong_recurrence_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking_torch, "TAPS", (32, 21, 2, 1))
    found = masking_torch.draws(SEED, torch.from_numpy(IMAGES), 5, 33, 40)
    assert not np.array_equal(found.numpy(), masking.draws(SEED, IMAGES, 5, 33, 40))


def test_a_state_of_zero_is_one() -> None:
    assert masking_torch.start_states(5, torch.tensor([5, 4, 2**32 + 5])).tolist() == [1, 1, 1]


def test_too_many_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="4096 draws, not 4097"):
        masking_torch.draws(SEED, torch.tensor([0]), 0, 1, 4097)


def test_ratios_by_site_and_block() -> None:
    mask = SpikeMask.of(MIXED)
    for (block, site), ratio in EXPECTED.items():
        assert MIXED.ratio256_of(site, block) == mask.ratio_of(site, block) == ratio, (block, site)
    assert MIXED.carries("q", "s0.b0") and not MIXED.carries("q", "s0.b1") and not MIXED.carries("k", "s0.b0")
    over = MIXED.at(0.125)
    assert [over.ratio256_of(site, block) for block, site in EXPECTED] == [32 * bool(ratio) for ratio in EXPECTED.values()]
    with pytest.raises(ValueError, match="the mask ratio of 'q' depends on the block: name one"):
        mask.keep("q", IMAGES, 0, 1, 4)


@pytest.mark.parametrize("step", [0, 3])
def test_masks_of_a_network_equal_the_goldens(step: int) -> None:
    """Every site of every block of a batch, from the torch network's own requests, against `SpikeMask.keep`."""
    plan = PlanEngine()
    network = MST(SHAPE, MIXED).eval()
    with torch.no_grad():
        network.run(torch.zeros(1, 1, 16, 16), plan)
    images = torch.tensor([4, 9, 2**31])
    masks, rows, seen = LfsrMasks(MIXED, SHAPE, images, step), mask_rows(SHAPE), 0
    mask = SpikeMask.of(MIXED).at_step(step)
    for name, count, columns in plan.sites:
        block, point = name.rsplit(".", 1)
        site = SITE_OF[point]
        given = masks.keep(name, torch.Size((3, count, columns)), count)
        first = getattr(rows[block], "qkv" if site in "qk" else site)
        wanted = mask.keep(site, images.numpy(), first, count, columns, columns if site == "k" else 0, block)
        assert (given is None) == (wanted is None) == (mask.ratio_of(site, block) == 0)
        if wanted is not None and given is not None:
            seen += 1
            assert np.array_equal(given.numpy(), wanted)
    assert len(plan.sites) == 3 * len(SITES) and seen == 9


def test_exact_masks_once_and_stepwise_redraws() -> None:
    torch.manual_seed(3)
    network = MST(SHAPE, MIXED).eval()
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(network.logits(images, "exact"), network.logits(images, "exact"))
    steps = network.logits(images, "stepwise", 3)
    assert torch.equal(steps, network.logits(images, "stepwise", 3)), "from the seed, so the same each time"
    network.masking = MIXED.at(0.0)
    assert not network.masking.active
    assert not torch.equal(steps[2], network.logits(images, "stepwise", 3)[2])
    one, other = (LfsrMasks(MIXED, SHAPE, torch.tensor([0]), step).keep("s0.b0.q", torch.Size((1, 64, 8)), 64) for step in (0, 1))
    assert one is not None and other is not None and not torch.equal(one, other)


def test_drop_path_factors_reach_their_branches() -> None:
    torch.manual_seed(3)
    network = MST(SHAPE, MaskingConfig()).eval()
    images = torch.randn(2, 1, 16, 16)
    plain = network.run(images, Engine())
    names = ["s0.b0.act1", "s0.b0.act2", "s0.b1.act1", "s0.b1.act2", "s1.b0.act1", "s1.b0.act2"]
    ones = {name: torch.ones(2) for name in names}
    assert torch.equal(network.run(images, Engine(paths=ones)), plain)
    for name in names:
        cut = network.run(images, Engine(paths={name: torch.tensor([1.0, 0.0])}))
        assert torch.equal(cut[0], plain[0])
        assert not torch.equal(cut[1], plain[1]), name
