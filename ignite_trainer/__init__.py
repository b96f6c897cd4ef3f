"""The training loop that people write by hand, run as two Ignite engines."""

from .callbacks import Callback, run_cbs
from .data import (
    CSVImages,
    DataLoaders,
    SampleLoader,
    TensorLoader,
    fashion_mnist,
    glyphs,
    image_folder,
    mnist,
    random_split,
)
from .engines import CancellableEngine, always
from .events import POINTS, CancelBatchException, CancelEpochException, CancelFitException, TrainEvents
from .factories import create_evaluator, create_trainer
from .fit import fit
from .handlers import EMA, Checkpoint, EarlyStopping, NaNGuard, Progress, RunFiles, Schedule, TensorBoard, TimeLimit
from .inspection import check
from .learner import Learner
from .lr_finder import LRFinder
from .metrics import Accuracy, Loss, accuracy
from .optim import param_groups
from .overfit_batch import OverfitBatch
from .plots import curves, show_images
from .rng import seed_everything
from .schedules import one_cycle, warmup_cosine
from .steps import EvalStep, TrainStep
from .version import __version__ as __version__

__all__ = [
    "EMA",
    "POINTS",
    "Accuracy",
    "CSVImages",
    "Callback",
    "CancelBatchException",
    "CancelEpochException",
    "CancelFitException",
    "CancellableEngine",
    "Checkpoint",
    "DataLoaders",
    "EarlyStopping",
    "EvalStep",
    "LRFinder",
    "Learner",
    "Loss",
    "NaNGuard",
    "OverfitBatch",
    "Progress",
    "RunFiles",
    "SampleLoader",
    "Schedule",
    "TensorBoard",
    "TensorLoader",
    "TimeLimit",
    "TrainEvents",
    "TrainStep",
    "accuracy",
    "always",
    "check",
    "create_evaluator",
    "create_trainer",
    "curves",
    "fashion_mnist",
    "fit",
    "glyphs",
    "image_folder",
    "mnist",
    "one_cycle",
    "param_groups",
    "random_split",
    "run_cbs",
    "seed_everything",
    "show_images",
    "warmup_cosine",
]
