"""Typed configuration: one TOML file describes one model on one machine.

`[model]`, `[masking]`, `[train]`, `[events]` and `[quantize]` are defined here; `[machine]` belongs to `hwgen.config` and is
read by the same `model.table`. No torch import: every folder reads configurations.
"""
import dataclasses
import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model import resnet, vgg
from model.conv_config import ConvConfig, ConvShape
from model.errors import ConfigError as ConfigError
from model.limits import MOST_BLOCKS, MOST_CHANNELS, MOST_CLASSES, MOST_ENTRIES, MOST_PIXELS, MOST_STAGES
from model.table import read_table, shown, typed
from model.train_config import PRETRAIN as PRETRAIN
from model.train_config import TrainConfig as TrainConfig

TABLES = ("model", "masking", "train", "events", "quantize", "machine")
SITES = ("q", "k", "scores", "fc1", "fc2")
"""Where a spike mask may sit: attention's q, k and score counts, and the inputs of the two MLP layers."""
CONV_SITE = "conv"
"""In a VGG or ResNet: the input counts of every convolution but the first."""
SITE_SETS = {"none": (), "published-code": ("q", "k", "scores"), "paper": SITES, CONV_SITE: (CONV_SITE,)}

LARGEST_FILE = 1 << 20
"""Bytes of a configuration file."""
NORMS = ("batch", "layer")
"""Norms of the network. Only BatchNorm, affine in evaluation, has an integer form."""
FLOAT_ONLY = ("norm", "final_norm")
"""Keys of [model] that a network file leaves out: in integers both say batch."""


def table_entries(depths: Sequence[int], sides: Sequence[int], windows: Sequence[int]) -> int:
    """Entries of the position tables and region masks of all blocks: w^4 and, where windows are shifted, side^2 w^2 each."""
    return sum(depth * window**4 + depth // 2 * (side * window)**2 * (side > window)
               for depth, side, window in zip(depths, sides, windows, strict=True))


def bounded(model: "AnyModel", *channels: int) -> None:
    """ConfigError where a number of `model` (`channels`: of its first stage) is so large that reading it would be work."""
    last = max(len(model.depths) - 1, 0)

    def need(good: bool, message: str) -> None:
        if not good:
            raise ConfigError(f"[model] {message}")

    need(len(model.depths) <= MOST_STAGES, f"depths has {len(model.depths)} stages, more than {MOST_STAGES}")
    need(sum(model.depths) <= MOST_BLOCKS, f"depths must be at most {MOST_BLOCKS} blocks, not {sum(model.depths)}")
    need(model.image_size <= MOST_PIXELS, f"image_size must be at most {MOST_PIXELS}, not {model.image_size}")
    need(model.in_channels <= MOST_CHANNELS, f"in_channels must be at most {MOST_CHANNELS}, not {model.in_channels}")
    need(model.classes <= MOST_CLASSES, f"classes must be at most {MOST_CLASSES}, not {model.classes}")
    for count in channels:
        need(1 <= count <= MOST_CHANNELS >> last,
             f"embedding must be 1 to {MOST_CHANNELS >> last} channels, which double in each of {last + 1} stages, not {count}")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a Masked Spiking Transformer (Swin backbone, BatchNorm, QCFS activations)."""

    image_size: int = field(metadata={"doc": "side of the square input image, pixels"})
    in_channels: int = field(metadata={"doc": "image channels: 1 or 3, or frames * polarities of event recordings"})
    classes: int = field(metadata={"doc": "number of classes"})
    patch: int = field(metadata={"doc": "side of a patch: kernel and stride of the embedding"})
    embedding: int = field(metadata={"doc": "channels of the first stage; each later stage doubles them"})
    depths: tuple[int, ...] = field(metadata={"doc": "blocks in each stage; odd blocks shift their windows"})
    heads: tuple[int, ...] = field(metadata={"doc": "attention heads in each stage"})
    window: int = field(metadata={"doc": "side of an attention window, tokens (clipped to the map's side)"})
    mlp_ratio: float = field(metadata={"doc": "hidden width of the MLP over its input width"})
    levels: int = field(metadata={"doc": "L, the largest spike count of a neuron; 2^b - 1 for b bit planes"})
    mlp_norm: bool = field(default=True, metadata={"doc": "BatchNorm after both MLP layers (the ImageNet variant)"})
    qkv_norm: bool = field(default=False, metadata={"doc": "BatchNorm after the q/k/v and output projections"})
    in_bits: int = field(default=8, metadata={"doc": "bits of an input value: 8 for pixels, 1 to 8 for counts of events"})
    norm: str = field(default="batch", metadata={"doc": "kind of all norms but the last: batch, or layer (float modes only)"})
    final_norm: str = field(default="batch", metadata={"doc": "kind of the norm before the head: likewise"})
    stem: tuple[tuple[int, int], ...] = field(default=(), metadata={
        "doc": "3x3 convolutions in place of the patch embedding, as [channels, stride] each; strides multiply to patch, the "
               "last has embedding channels"})

    def __post_init__(self) -> None:
        def need(good: bool, message: str) -> None:
            if not good:
                raise ConfigError(f"[model] {message}")

        bounded(self, self.embedding)
        need(self.in_channels >= 1, f"in_channels must be at least 1, not {self.in_channels}")
        need(1 <= self.in_bits <= 8, f"in_bits must be 1 to 8, not {self.in_bits}")
        need(self.classes >= 2, f"classes must be at least 2, not {self.classes}")
        need(self.patch >= 1, f"patch must be at least 1, not {self.patch}")
        need(self.image_size > 0 and self.image_size % self.patch == 0,
             f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        need(len(self.depths) >= 1 and min(self.depths) >= 1, f"depths must be positive, not {list(self.depths)}")
        need(len(self.heads) == len(self.depths),
             f"heads has {len(self.heads)} stages and depths {len(self.depths)}: give one number per stage")
        need(self.levels in (1, 3, 7, 15), f"levels must be 2^b - 1 (1, 3, 7 or 15), not {self.levels}")
        need(self.patch <= self.image_size, f"patch must be at most image_size, not {self.patch}")
        need(self.window >= 2, f"window must be at least 2, not {self.window}")
        need(self.norm in NORMS, f"norm must be one of {', '.join(NORMS)}, not {self.norm!r}")
        need(self.final_norm in NORMS, f"final_norm must be one of {', '.join(NORMS)}, not {self.final_norm!r}")
        if self.stem:
            need(all(1 <= channels <= MOST_CHANNELS and stride in (1, 2) for channels, stride in self.stem),
                 f"stem: channels must be 1 to {MOST_CHANNELS} and strides 1 or 2, not {[list(entry) for entry in self.stem]}")
            strides = math.prod(stride for _, stride in self.stem)
            need(strides == self.patch,
                 f"stem: its strides multiply to {strides}, but patch is {self.patch}: make them equal")
            need(self.stem[-1][0] == self.embedding,
                 f"stem: its last convolution has {self.stem[-1][0]} channels, but embedding is {self.embedding}: "
                 "make them equal")
        need(self.mlp_ratio > 0, f"mlp_ratio must be positive, not {self.mlp_ratio}")
        for stage, count in enumerate(self.heads):
            width, side = self.width(stage), self.side(stage)
            need(count >= 1 and width % count == 0,
                 f"heads: {count} heads do not divide the {width} channels of stage {stage}")
            need(stage == 0 or self.side(stage - 1) % 2 == 0,
                 f"image_size: stage {stage - 1} has {self.side(stage - 1)}x{self.side(stage - 1)} tokens, "
                 "which patch merging cannot halve: use fewer stages or another image_size")
            need(side % self.window_of(stage) == 0,
                 f"window {self.window} does not divide the {side}x{side} tokens of stage {stage}")
            need(float(width * self.mlp_ratio).is_integer(),
                 f"mlp_ratio {self.mlp_ratio} gives {width * self.mlp_ratio} hidden channels in stage {stage}")
            need(1 <= width * self.mlp_ratio <= 4 * MOST_CHANNELS,
                 f"mlp_ratio {self.mlp_ratio} gives {width * self.mlp_ratio} hidden channels in stage {stage}, "
                 f"not 1 to {4 * MOST_CHANNELS}")
        entries = table_entries(self.depths, [self.side(stage) for stage in range(len(self.depths))],
                                [self.window_of(stage) for stage in range(len(self.depths))])
        need(entries <= MOST_ENTRIES, f"window {self.window} and image_size {self.image_size} give tables of {entries} "
             f"positions, more than {MOST_ENTRIES}: lower one of them")

    @property
    def planes(self) -> int:
        """b, the bit planes of a spike count: L = 2^b - 1."""
        return self.levels.bit_length()

    def stem_plan(self) -> tuple[ConvShape, ...]:
        """The convolutions of the stem in execution order; the last is the embedding. Empty where patches are embedded."""
        found: list[ConvShape] = []
        side, channels = self.image_size, self.in_channels
        for index, (outputs, stride) in enumerate(self.stem):
            last = index + 1 == len(self.stem)
            found.append(ConvShape("embed" if last else f"stem{index}", side, channels, outputs, stride=stride,
                                   residual="fresh" if last else ""))
            side, channels = found[-1].out_side, outputs
        return tuple(found)

    def side(self, stage: int) -> int:
        """Tokens along one side of the map in `stage`."""
        return self.image_size // self.patch // 2**stage

    def width(self, stage: int) -> int:
        """Channels of `stage`."""
        return self.embedding * 2**stage

    def hidden(self, stage: int) -> int:
        """Hidden channels of the MLPs of `stage`."""
        return int(self.width(stage) * self.mlp_ratio)

    def window_of(self, stage: int) -> int:
        """Window side in `stage`: the map's side where that is not larger than `window`."""
        return min(self.window, self.side(stage))

    def shift_of(self, stage: int, block: int) -> int:
        """Cyclic shift of `block`: half a window in odd blocks, none where one window covers the map."""
        return self.window // 2 if block % 2 and self.side(stage) > self.window else 0


KINDS: dict[str, tuple[type[ConvConfig], dict[str, dict[str, object]]]] = {
    "vgg": (vgg.VggConfig, vgg.PRESETS), "resnet": (resnet.ResnetConfig, resnet.PRESETS)}
"""Shapes beside the MST, by the key `kind` of `[model]`: type and presets."""
AnyModel = ModelConfig | ConvConfig
"""The shape of any network: a Masked Spiking Transformer, or a convolutional backbone."""
LATER = ("in_bits", "shortcut", "stem")
"""Fields of a model that files written before them do not hold."""


def described(model: AnyModel) -> dict[str, object]:
    """A model's fields for a file's header; those of LATER only where they differ from the default, so that the files of
    before keep their bytes."""
    defaults = {entry.name: entry.default for entry in dataclasses.fields(model)}
    return {key: value for key, value in dataclasses.asdict(model).items() if key not in LATER or value != defaults[key]}


@dataclass(frozen=True, slots=True)
class MaskingConfig:
    """Random Spike Masking (MST, section 3.3): which spikes are dropped, how many, from which seed.

    A site of a block has the ratio that `ratios` gives it by its whole name ("s0.b1.fc2"), else the one that `ratios` gives
    the site ("fc2"), else `ratio` where `sites` names it, else none. In a file, `sites` may also be a table of ratios.
    """

    sites: tuple[str, ...] = field(default=SITE_SETS["published-code"], metadata={
        "doc": "'published-code', 'paper', 'none', 'conv', a list of q, k, scores, fc1, fc2, conv, or a table such as {q = 0.5}"})
    ratio: float = field(default=0.0, metadata={"doc": "share of spikes masked at each of `sites`, in steps of 1/256"})
    seed: int = field(default=0x2545F491, metadata={"doc": "32-bit seed of the mask LFSR"})
    ratios: tuple[tuple[str, float], ...] = field(default=(), metadata={
        "doc": "table of ratios of their own: by site (q = 0.5) or by block and site ('s0.b1.fc2' = 0.75); 0 leaves it unmasked"})

    def __post_init__(self) -> None:
        unknown = [site for site in (*self.sites, *(key.rpartition(".")[2] for key, _ in self.ratios))
                   if site not in (*SITES, CONV_SITE)]
        if unknown:
            raise ConfigError(f"[masking] sites: unknown site {unknown[0]!r}; known: {', '.join((*SITES, CONV_SITE))}, "
                              f"or one of {', '.join(SITE_SETS)}")
        for name, ratio in (("ratio", self.ratio), *self.ratios):
            if not 0 <= ratio < 1 or not float(ratio * 256).is_integer():
                near = f"; nearest: {min(max(round(ratio * 256), 0), 255) / 256}" if math.isfinite(ratio * 256) else ""
                raise ConfigError(f"[masking] {name} must be a multiple of 1/256 in [0, 1), not {ratio}{near}")
        if len(dict(self.ratios)) < len(self.ratios):
            raise ConfigError(f"[masking] ratios names a site twice: {[key for key, _ in self.ratios]}")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"[masking] seed must fit 32 bits, not {self.seed}")

    def ratio_of(self, site: str, block: str = "") -> float:
        """Share of spikes masked at `site` of `block` ("s0.b1")."""
        own = dict(self.ratios)
        return own.get(f"{block}.{site}", own.get(site, self.ratio if site in self.sites else 0.0))

    def ratio256_of(self, site: str, block: str = "") -> int:
        """`ratio_of` in units of 1/256: a draw below it is masked."""
        return int(self.ratio_of(site, block) * 256)

    def carries(self, site: str, block: str = "") -> bool:
        """Whether a program masks `site` of `block`, be it with ratio 0: then a ratio set at run time applies there."""
        own = dict(self.ratios)
        return bool(own.get(f"{block}.{site}", own.get(site, site in self.sites)))

    def at(self, ratio: float) -> "MaskingConfig":
        """The same sites, all with `ratio`; ConfigError when it is not a multiple of 1/256 in [0, 1)."""
        return dataclasses.replace(self, ratio=ratio, ratios=tuple((key, ratio if own else 0.0) for key, own in self.ratios))

    @property
    def active(self) -> bool:
        """Whether any spike can be masked."""
        return bool(self.ratio and self.sites) or any(ratio for _, ratio in self.ratios)

    @property
    def ratio256(self) -> int:
        """`ratio` in units of 1/256."""
        return int(self.ratio * 256)


@dataclass(frozen=True, slots=True)
class EventsConfig:
    """Frame-based representation of event recordings (`model.frames`)."""

    frames: int = field(default=1, metadata={"doc": "frames of a recording; each has its own input channels"})
    by: str = field(default="time", metadata={"doc": "frames of equal 'time' or of an equal 'count' of events"})
    polarity: str = field(default="split", metadata={"doc": "'split': OFF and ON channels; 'merged': one"})
    fit: str = field(default="crop", metadata={"doc": "sensor to picture: 'crop' (or pad) about the centre, or 'scale'"})

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= MOST_CHANNELS:
            raise ConfigError(f"[events] frames must be 1 to {MOST_CHANNELS}, not {self.frames}")
        for key, choices in (("by", ("time", "count")), ("polarity", ("split", "merged")), ("fit", ("crop", "scale"))):
            if getattr(self, key) not in choices:
                raise ConfigError(f"[events] {key} must be {' or '.join(choices)}, not {getattr(self, key)!r}")


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """Integer formats of the exported network."""

    weight_bits: int = field(default=8, metadata={"doc": "bits of a signed weight: 4 or 8"})
    rom_bits: int = field(default=12, metadata={"doc": "bits of an unsigned softmax ROM entry, 6 to 16"})
    stream_bits: int = field(default=8, metadata={"doc": "signed bit planes of a residual entering patch merging"})

    def __post_init__(self) -> None:
        if self.weight_bits not in (4, 8):
            raise ConfigError(f"[quantize] weight_bits must be 4 or 8, not {self.weight_bits}")
        if not 6 <= self.rom_bits <= 16:
            raise ConfigError(f"[quantize] rom_bits must be 6 to 16, not {self.rom_bits}")
        if not 4 <= self.stream_bits <= 12:
            raise ConfigError(f"[quantize] stream_bits must be 4 to 12, not {self.stream_bits}")


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration file except `[machine]`, whose raw table `hwgen.config` types."""

    name: str
    model: AnyModel
    masking: MaskingConfig
    train: TrainConfig
    quantize: QuantizeConfig
    machine: dict[str, object]
    events: EventsConfig = EventsConfig()
    network: Path = Path()
    """the network file: the file's key `network`, from its own folder; else of the configuration's name, beside it"""
    file: Path | None = None
    """the file that it was read from"""

    def beside(self, table: str, key: str, name: str) -> Path:
        """The file `name` that `key` of `table` gives, from the configuration's own folder; ConfigError where there is none."""
        folder = self.file.parent if self.file else Path()
        if not (folder / name).is_file():
            raise ConfigError(f"{self.file or self.name}: [{table}] {key} = \"{name}\": no file {folder / name}: such names "
                              "start from the configuration's folder")
        return folder / name


def read_masking(raw: object) -> MaskingConfig:
    """`[masking]`; `sites` may be a list or the name of a set. ConfigError as `read_table`."""
    if not isinstance(raw, dict):
        return read_table(MaskingConfig, "masking", raw)
    raw = _spelled_out(raw)
    sites = raw.get("sites")
    if isinstance(sites, str):
        if sites not in SITE_SETS:
            raise ConfigError(f"[masking] sites: unknown set {shown(sites)}; known: {', '.join(SITE_SETS)}")
        raw = raw | {"sites": SITE_SETS[sites]}
    return read_table(MaskingConfig, "masking", raw)


def _spelled_out(raw: dict[str, object]) -> dict[str, object]:
    """Table [masking] with `ratios` as sorted pairs; a table under `sites` is moved there."""
    sites, ratios = raw.get("sites"), raw.get("ratios", {})
    if isinstance(ratios, list) and all(isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)
                                        for entry in ratios):
        ratios = dict(ratios)  # as checkpoints hold them
    if not isinstance(ratios, dict):
        raise ConfigError(f"[masking] ratios must be a table of ratios by site, not {shown(ratios)}")
    if isinstance(sites, dict):
        twice = sorted(sites.keys() & ratios.keys())
        if twice:
            raise ConfigError(f"[masking] {twice[0]} has a ratio under both sites and ratios: keep one")
        raw, ratios = raw | {"sites": []}, sites | ratios
    if not ratios:
        return {key: value for key, value in raw.items() if key != "ratios"}
    return raw | {"ratios": tuple((name, typed("masking", _plain(name), ratio, float)) for name, ratio in _flat(ratios))}


def _flat(table: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of nested tables, sorted: s0.b1.q = 0.5 without quotes is a nested table in TOML."""
    for key, value in sorted(table.items()):
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def read_model(raw: object) -> AnyModel:
    """The model that `[model]` describes: `kind` mst (the default), vgg or resnet, from a `preset` where one is named."""
    if not isinstance(raw, dict):
        raise ConfigError(f"[model] must be a table, not {shown(raw)}")
    kind = raw.get("kind", "mst")
    if kind == "mst":
        return read_table(ModelConfig, "model", {key: value for key, value in raw.items() if key != "kind"})
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"[model] kind must be one of mst, {', '.join(KINDS)}, not {shown(kind)}")
    given, (shape, presets) = dict(raw), KINDS[kind]
    if "preset" in given:
        preset = given.pop("preset")
        if not isinstance(preset, str) or preset not in presets:
            raise ConfigError(f"[model] preset must be one of {', '.join(presets)}, not {shown(preset)}")
        given = presets[preset] | given
    return read_table(shape, "model", given)


def _blocks(model: AnyModel) -> list[str]:
    """Names of the blocks, or convolutions, that may have mask ratios of their own."""
    if isinstance(model, ModelConfig):
        return [f"s{stage}.b{block}" for stage, depth in enumerate(model.depths) for block in range(depth)]
    return [shape.name for shape in model.plan() if shape.hands_on]


def _plain(name: str) -> str:
    """A key as a message says it."""
    return name if name.isprintable() and len(name) < 40 else shown(name)


def load(path: str | Path) -> Config:
    """Read a configuration file; ConfigError names the file and what is wrong with it."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: has {path.stat().st_size} bytes, more than {LARGEST_FILE}: not a configuration")
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; see configs/") from None
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{path}: not TOML that is read: nested too deeply") from None
    except ValueError as error:  # tomllib's own, of the encoding, of numbers with thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        network = raw.pop("network", f"{path.stem}.mstn")
        if not isinstance(network, str) or not network:
            raise ConfigError(f"network must name a network file, such as \"cifar10-tiny.mstn\", not {shown(network)}")
        for table in raw:
            if table not in TABLES:
                known = ", ".join(TABLES)
                raise ConfigError(f"unknown table [{_plain(table)}]; known: {known}" if isinstance(raw[table], dict) else
                                  f"{_plain(table)} stands before any table: put it under one of [{known.replace(', ', '], [')}]")
        for table in ("machine", "events"):
            if not isinstance(raw.get(table, {}), dict):
                raise ConfigError(f"[{table}] must be a table, not {shown(raw[table])}")
        if "model" not in raw:
            raise ConfigError("lacks the table [model]")
        model = read_model(raw["model"])
        masking = read_masking(raw.get("masking", {}))
        blocks = _blocks(model)
        for name, _ in masking.ratios:
            if "." in name and name.rpartition(".")[0] not in blocks:
                known = ", ".join(blocks if len(blocks) < 40 else [*blocks[:3], "...", blocks[-1]])
                raise ConfigError(f"[masking] ratios: no block of {shown(name)}; blocks: {known}")
        return Config(
            name=path.stem,
            model=model,
            masking=masking,
            train=read_table(TrainConfig, "train", raw.get("train", {})),
            quantize=read_table(QuantizeConfig, "quantize", raw.get("quantize", {})),
            machine=dict(raw.get("machine", {})),
            events=read_table(EventsConfig, "events", raw.get("events", {})),
            network=path.parent / network,
            file=path,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
