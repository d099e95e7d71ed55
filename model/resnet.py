"""The shape of a ResNet backbone. No torch: `model.backbone` runs it."""
from dataclasses import dataclass
from typing import ClassVar

from model.conv_config import ConvConfig, ConvShape

PRESETS: dict[str, dict[str, object]] = {
    "resnet18": {"depths": [2, 2, 2, 2], "widths": [64, 128, 256, 512]},
    "resnet20": {"depths": [3, 3, 3], "widths": [16, 32, 64]}}
"""Named shapes: keys that a file may leave out when it says `preset`."""


@dataclass(frozen=True, slots=True)
class ResnetConfig(ConvConfig):
    """ResNet for small images (He et al., CVPR 2016, section 4.2) as a spiking network with an integer residual stream.

    A block is two 3x3 convolutions with BatchNorm and QCFS; the counts of the second join the stream, and BatchNorm and
    QCFS on the stream feed the next block (pre-activation order, He et al., ECCV 2016). The first convolution of a later stage
    has stride 2 and starts a new stream, as patch merging does in the MST: there is no projection shortcut.
    """

    KIND: ClassVar[str] = "resnet"

    def plan(self) -> tuple[ConvShape, ...]:
        """See ConvConfig.plan."""
        side, channels = self.image_size, self.channels(0)
        found = [ConvShape("stem", side, self.in_channels, channels, residual="fresh")]
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                down = stage > 0 and block == 0
                name = f"s{stage}.b{block}"
                found.append(ConvShape(f"{name}.conv1", side, channels, self.channels(stage), stride=2 if down else 1,
                                       residual="fresh" if down else ""))
                side, channels = found[-1].out_side, found[-1].outputs
                found.append(ConvShape(f"{name}.conv2", side, channels, channels, residual="add"))
        return tuple(found)
