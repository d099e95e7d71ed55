"""The shape of a VGG backbone. No torch: `model.backbone` runs it."""
from dataclasses import dataclass, field
from typing import ClassVar

from model.conv_config import ConvConfig, ConvShape

POOLINGS = ("stride", "average")
PRESETS: dict[str, dict[str, object]] = {
    "vgg16": {"depths": [2, 2, 3, 3, 3], "widths": [64, 128, 256, 512, 512], "dense": [512, 512]}}
"""Named shapes: keys that a file may leave out when it says `preset`. vgg16: 13 convolutions and 3 fully connected layers."""


@dataclass(frozen=True, slots=True)
class VggConfig(ConvConfig):
    """VGG (Simonyan and Zisserman, ICLR 2015) with BatchNorm and QCFS, without max pooling.

    `pooling`: what halves the map between stages, a stride of 2 in the next convolution (Springenberg et al., ICLR 2015
    workshop) or 2x2 average pooling before it. `dense`: hidden fully connected layers on the pooled last map.
    """

    KIND: ClassVar[str] = "vgg"
    pooling: str = field(default="stride", metadata={"doc": "between stages: 'stride' (of the next convolution) or 'average'"})
    dense: tuple[int, ...] = field(default=(), metadata={"doc": "widths of hidden fully connected layers"})

    def __post_init__(self) -> None:
        ConvConfig.__post_init__(self)
        self.need(self.pooling in POOLINGS, f"pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        self.need(all(1 <= hidden <= 4096 for hidden in self.dense), f"dense must be 1 to 4096 wide, not {list(self.dense)}")

    def plan(self) -> tuple[ConvShape, ...]:
        """See ConvConfig.plan."""
        found: list[ConvShape] = []
        side, channels = self.image_size, self.in_channels
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                halve = 2 if stage and not index else 1
                pool, stride = (halve, 1) if self.pooling == "average" else (1, halve)
                found.append(ConvShape(f"s{stage}.conv{index}", side, channels, self.channels(stage), stride=stride, pool=pool))
                side, channels = found[-1].out_side, found[-1].outputs
        for index, hidden in enumerate(self.dense):
            # The first one reads the mean of the map: a pooling as large as the map, then a kernel of one.
            found.append(ConvShape(f"dense{index}", side, channels, hidden, kernel=1, padding=0, pool=side))
            side, channels = 1, hidden
        return tuple(found)
