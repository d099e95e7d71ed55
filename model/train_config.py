"""The typed `[train]` table of a configuration: the whole recipe of a training run. No torch."""
from dataclasses import dataclass, field

from model.errors import ConfigError
from model.holdout import SPLITS

AUTO = "auto"
"""As `precision`: bfloat16 where the machine has arithmetic for it, else float32 (`model.precision`)."""
PRECISIONS = (AUTO, "bfloat16", "float32", "float16")
OPTIMISERS = ("adamw", "muon")
PRETRAIN = "pretrain"
"""As `teacher`: train one first, unmasked."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Training run of the float QCFS network, and its distillation from a teacher."""

    dataset: str = field(default="cifar10", metadata={"doc": "a name of model.datasets.DATASETS, such as cifar10"})
    epochs: int = field(default=60, metadata={"doc": "passes over the training set"})
    batch: int = field(default=128, metadata={"doc": "images per step, over all processes"})
    rate: float = field(default=2e-3, metadata={"doc": "peak learning rate of the optimiser"})
    weight_decay: float = field(default=0.05, metadata={"doc": "weight decay of matrices, as a share of the rate"})
    warmup_epochs: int = field(default=3, metadata={"doc": "epochs of linear warm-up before the cosine"})
    label_smoothing: float = field(default=0.1, metadata={"doc": "label smoothing"})
    clip: float = field(default=5.0, metadata={"doc": "gradient norm clip"})
    average: float = field(default=0.998, metadata={"doc": "decay of the moving average of the weights"})
    holdout: int = field(default=2000, metadata={"doc": "training images kept aside to watch accuracy"})
    split: str = field(default="stratified", metadata={
        "doc": "which are kept aside: the last images of each class, in proportion ('stratified'), or the last of all ('last', "
               "as networks were trained before)"})
    seed: int = field(default=1, metadata={"doc": "seed of initialisation, order and augmentation"})
    final_rate: float = field(default=0.01, metadata={"doc": "where the cosine ends, as a share of the peak rate"})
    epoch_images: int = field(default=0, metadata={"doc": "images of an epoch, drawn from all of them afresh (0: all)"})
    shards: int = field(default=2, metadata={
        "doc": "parts of a batch, each with BatchNorm statistics of its own; torchrun's processes share them out"})
    precision: str = field(default=AUTO, metadata={
        "doc": "autocast to bfloat16 or float16 (then with a scaled loss), or float32; auto: bfloat16 where the machine has "
               "arithmetic for it, else float32"})
    crop_pad: int = field(default=4, metadata={"doc": "random crops reach so many pixels over each edge"})
    randaugment_ops: int = field(default=0, metadata={"doc": "RandAugment's N: operations on each image (0: off)"})
    randaugment_magnitude: float = field(default=9.0, metadata={"doc": "RandAugment's M: strength, 0 to 10"})
    mixup: float = field(default=0.0, metadata={"doc": "mixup's alpha (0: off)"})
    cutmix: float = field(default=0.0, metadata={"doc": "CutMix's alpha (0: off)"})
    mix_probability: float = field(default=1.0, metadata={"doc": "share of batches that mixup or CutMix changes"})
    cutmix_share: float = field(default=0.5, metadata={"doc": "share of CutMix among the changed batches where both are on"})
    erasing: float = field(default=0.0, metadata={"doc": "probability of random erasing"})
    drop_path: float = field(default=0.0, metadata={"doc": "stochastic depth: rate of the last block, rising linearly to it"})
    optimiser: str = field(default="adamw", metadata={
        "doc": "'adamw', or 'muon': Muon for matrices, AdamW for all else, at the same rate (Muon's updates are scaled to "
               "AdamW's size)"})
    start: str = field(default="", metadata={
        "doc": "checkpoint, from the configuration's folder, of the same shape whose weights a new run starts from "
               "('': none); of a LayerNorm before the head "
               "a BatchNorm may be made"})
    teacher: str = field(default="", metadata={
        "doc": "'' trains on labels alone, 'pretrain' first trains an unmasked teacher, else the teacher's checkpoint, "
               "from the configuration's folder"})
    distill_weight: float = field(default=0.5, metadata={"doc": "share of the teacher's loss, beside that of the labels"})
    temperature: float = field(default=2.0, metadata={"doc": "distillation temperature"})
    warm_start: bool = field(default=True, metadata={"doc": "a student of its teacher's shape starts from its weights"})

    def __post_init__(self) -> None:
        def need(good: bool, key: str, wanted: str) -> None:
            if not good:
                raise ConfigError(f"[train] {key} must be {wanted}, not {getattr(self, key)!r}")

        for key in ("epochs", "batch", "shards"):
            need(getattr(self, key) >= 1, key, "at least 1")
        for key in ("warmup_epochs", "holdout", "epoch_images", "crop_pad", "weight_decay", "mixup", "cutmix", "seed"):
            need(getattr(self, key) >= 0, key, "at least 0")
        need(self.seed < 2**32, "seed", "below 2^32")
        for key in ("rate", "clip", "temperature"):
            need(getattr(self, key) > 0, key, "positive")
        for key in ("final_rate", "mix_probability", "cutmix_share", "erasing", "distill_weight"):
            need(0 <= getattr(self, key) <= 1, key, "0 to 1")
        for key in ("label_smoothing", "average", "drop_path"):
            need(0 <= getattr(self, key) < 1, key, "in [0, 1)")
        need(self.optimiser in OPTIMISERS, "optimiser", " or ".join(OPTIMISERS))
        need(self.split in SPLITS, "split", " or ".join(SPLITS))
        need(self.precision in PRECISIONS, "precision", " or ".join(PRECISIONS))
        need(0 <= self.randaugment_ops <= 8, "randaugment_ops", "0 to 8")
        need(0 <= self.randaugment_magnitude <= 10, "randaugment_magnitude", "0 to 10")
        need(self.batch % self.shards == 0 and (self.batch >= 2 * self.shards or self.shards == 1), "batch",
             f"at least two images for each of its {self.shards} shards and a multiple of them (or set shards = 1)")
