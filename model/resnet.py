"""The shape of a ResNet backbone. No torch: `model.backbone` runs it."""
from dataclasses import dataclass, field
from typing import ClassVar

from model.conv_config import ConvConfig, ConvShape

SHORTCUTS = {"none": "", "projection": "proj", "padded": "pad"}
PRESETS: dict[str, dict[str, object]] = {
    "resnet18": {"depths": [2, 2, 2, 2], "widths": [64, 128, 256, 512], "shortcut": "projection"},
    "resnet20": {"depths": [3, 3, 3], "widths": [16, 32, 64], "shortcut": "padded"}}
"""Named shapes: keys that a file may leave out when it says `preset`, with the shortcuts of the paper."""


@dataclass(frozen=True, slots=True)
class ResnetConfig(ConvConfig):
    """ResNet for small images (He et al., CVPR 2016, section 4.2) as a spiking network with an integer residual stream.

    A block is two 3x3 convolutions with BatchNorm and QCFS; the counts of the second join the stream, and BatchNorm and
    QCFS on the stream feed the next block (pre-activation order, He et al., ECCV 2016). The first block of a later stage has
    stride 2 and starts a new stream: with the counts of a 1x1 convolution of the block's input (`shortcut` "projection", option B
    of the paper), with every second token of that input, more channels being 0 ("padded", option A), or with the counts of its
    first convolution, as patch merging does in the MST ("none").
    """

    KIND: ClassVar[str] = "resnet"
    shortcut: str = field(default="none", metadata={
        "doc": "of the first block of a later stage: 'projection' (1x1 convolution, stride 2, BatchNorm), 'padded' (every second "
               "token, zeros for more channels) or 'none'"})

    def __post_init__(self) -> None:
        ConvConfig.__post_init__(self)
        self.need(self.shortcut in SHORTCUTS, f"shortcut must be one of {', '.join(SHORTCUTS)}, not {self.shortcut!r}")
        grows = all(self.channels(stage) <= self.channels(stage + 1) for stage in range(len(self.widths) - 1))
        self.need(grows or self.shortcut != "padded",
                  f"widths {list(self.widths)}: a padded shortcut cannot lose channels: let them grow, or"
                  " take shortcut = 'projection'")

    def plan(self) -> tuple[ConvShape, ...]:
        """See ConvConfig.plan."""
        side, channels = self.image_size, self.channels(0)
        found = [ConvShape("stem", side, self.in_channels, channels, residual="fresh")]
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                down = stage > 0 and block == 0
                name, shortcut = f"s{stage}.b{block}", SHORTCUTS[self.shortcut] if down else ""
                if shortcut:
                    found.append(ConvShape(f"{name}.{shortcut}", side, channels, self.channels(stage), kernel=1, stride=2,
                                           padding=0, residual="fresh", hands_on=False, fixed=self.shortcut == "padded"))
                found.append(ConvShape(f"{name}.conv1", side, channels, self.channels(stage), stride=2 if down else 1,
                                       residual="fresh" if down and not shortcut else ""))
                side, channels = found[-1].out_side, found[-1].outputs
                found.append(ConvShape(f"{name}.conv2", side, channels, channels, residual="add"))
        return tuple(found)
