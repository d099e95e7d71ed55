"""What the typed shapes of VGG (`model.vgg`) and ResNet (`model.resnet`) share: the plan of convolutions. No torch.

A plan lists every convolution (and hidden fully connected layer) in execution order; the float model, the folding, the golden
model and the compiler all read it. Behind it stands the classifier, on the mean over all tokens of the last map.
"""
from dataclasses import dataclass, field, replace
from typing import ClassVar

from model.errors import ConfigError
from model.limits import MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_STAGES


@dataclass(frozen=True, slots=True)
class ConvShape:
    """One convolution over square maps, BatchNorm and neuron behind it.

    `side`, `channels`: of its input map, before pooling. `pool`: side of the average pooling in front of it (1: none).
    `residual`: '' (its counts go on), 'fresh' (they start the residual stream) or 'add' (they join it); with a residual,
    a second BatchNorm and neuron on the stream make the counts that go on. `hands_on` False: nothing goes on, its counts only
    join the stream, and the next convolution reads what this one read (a shortcut). `fixed`: its weights are the unit matrix,
    without BatchNorm: inputs go through, and outputs beyond them are 0.
    """

    name: str
    side: int
    channels: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 1
    residual: str = ""
    hands_on: bool = True
    fixed: bool = False

    @property
    def out_side(self) -> int:
        """Side of the output map."""
        return (self.side // self.pool + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def tokens(self) -> int:
        """Output tokens."""
        return self.out_side**2

    @property
    def unpooled(self) -> "ConvShape":
        """The same sums as one convolution of the map before pooling: every weight stands for pool x pool taps."""
        return replace(self, kernel=self.kernel * self.pool, stride=self.stride * self.pool,
                       padding=self.padding * self.pool, pool=1)

    @property
    def inputs(self) -> int:
        """Inputs of one output token, over all taps of the unpooled kernel."""
        return (self.kernel * self.pool)**2 * self.channels


@dataclass(frozen=True, slots=True)
class ConvConfig:
    """What both backbones have. The first convolution reads the pixels; later stages halve the map."""

    KIND: ClassVar[str] = ""
    kind: str = field(metadata={"doc": "the backbone: vgg or resnet"})
    image_size: int = field(metadata={"doc": "side of the square input image, pixels"})
    in_channels: int = field(metadata={"doc": "image channels: 1 or 3"})
    classes: int = field(metadata={"doc": "number of classes"})
    levels: int = field(metadata={"doc": "L, the largest spike count of a neuron; 2^b - 1 for b bit planes"})
    depths: tuple[int, ...] = field(metadata={"doc": "VGG: convolutions in each stage; ResNet: blocks of two in each stage"})
    widths: tuple[int, ...] = field(metadata={"doc": "channels of each stage, before the multiplier `width`"})
    width: float = field(default=1.0, metadata={"doc": "multiplier of all channels"})

    def __post_init__(self) -> None:
        self.need(self.kind == self.KIND, f"kind must be {self.KIND!r} here, not {self.kind!r}")
        self.need(self.in_channels >= 1, f"in_channels must be at least 1, not {self.in_channels}")
        self.need(self.classes >= 2, f"classes must be at least 2, not {self.classes}")
        self.need(self.levels in (1, 3, 7, 15), f"levels must be 2^b - 1 (1, 3, 7 or 15), not {self.levels}")
        self.need(len(self.depths) >= 1 and min(self.depths) >= 1, f"depths must be positive, not {list(self.depths)}")
        self.need(len(self.depths) <= MOST_STAGES and sum(self.depths) <= MOST_BLOCKS,
                  f"depths must be at most {MOST_STAGES} stages of {MOST_BLOCKS} blocks together, not {len(self.depths)} of "
                  f"{sum(self.depths)}")
        self.need(self.in_channels <= MOST_CHANNELS, f"in_channels must be at most {MOST_CHANNELS}, not {self.in_channels}")
        self.need(self.classes <= MOST_CLASSES, f"classes must be at most {MOST_CLASSES}, not {self.classes}")
        self.need(len(self.widths) == len(self.depths),
                  f"widths has {len(self.widths)} stages and depths {len(self.depths)}: give one number per stage")
        self.need(0 < self.width <= 4096 and max(self.widths) <= 4096
                  and all(self.channels(stage) >= 1 for stage in range(len(self.widths))),
                  f"width {self.width} of {list(self.widths)} channels leaves a stage without any: raise it")
        # A mask row has 4096 draws, one for each channel.
        self.need(max(self.channels(stage) for stage in range(len(self.widths))) <= 4096,
                  f"widths {list(self.widths)} times {self.width} exceed 4096 channels: lower them")
        halvings = len(self.depths) - 1
        self.need(self.image_size >= 1 and self.image_size % 2**halvings == 0 and self.image_size <= 1024,
                  f"image_size must be a multiple of {2**halvings} up to 1024 for {halvings + 1} stages, not {self.image_size}")

    def need(self, good: bool, message: str) -> None:
        """ConfigError with `message` unless `good`."""
        if not good:
            raise ConfigError(f"[model] {message}")

    @property
    def patch(self) -> int:
        """Side of a token of the image: one pixel."""
        return 1

    @property
    def in_bits(self) -> int:
        """Bits of a pixel."""
        return 8

    @property
    def planes(self) -> int:
        """b, the bit planes of a spike count: L = 2^b - 1."""
        return self.levels.bit_length()

    def side(self, stage: int) -> int:
        """Side of the map in `stage`; that of stage 0 is the image's."""
        return self.image_size // 2**stage

    def channels(self, stage: int) -> int:
        """Channels of `stage`."""
        return int(self.widths[stage] * self.width)

    def plan(self) -> tuple[ConvShape, ...]:
        """Every convolution in execution order."""
        raise NotImplementedError
