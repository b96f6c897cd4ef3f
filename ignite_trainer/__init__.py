"""The training loop that people write by hand, run as two Ignite engines."""

from .callbacks import Callback as Callback
from .callbacks import run_cbs as run_cbs
from .data import CSVImages as CSVImages
from .data import DataLoaders as DataLoaders
from .data import SampleLoader as SampleLoader
from .data import TensorLoader as TensorLoader
from .data import fashion_mnist as fashion_mnist
from .data import glyphs as glyphs
from .data import image_folder as image_folder
from .data import mnist as mnist
from .data import random_split as random_split
from .engines import CancellableEngine as CancellableEngine
from .engines import always as always
from .engines import create_evaluator as create_evaluator
from .engines import create_trainer as create_trainer
from .events import POINTS as POINTS
from .events import CancelBatchException as CancelBatchException
from .events import CancelEpochException as CancelEpochException
from .events import CancelFitException as CancelFitException
from .events import TrainEvents as TrainEvents
from .fit import fit as fit
from .handlers import EMA as EMA
from .handlers import Checkpoint as Checkpoint
from .handlers import EarlyStopping as EarlyStopping
from .handlers import NaNGuard as NaNGuard
from .handlers import Progress as Progress
from .handlers import RunFiles as RunFiles
from .handlers import Schedule as Schedule
from .handlers import TensorBoard as TensorBoard
from .handlers import TimeLimit as TimeLimit
from .inspection import check as check
from .learner import Learner as Learner
from .lr_finder import LRFinder as LRFinder
from .metrics import Accuracy as Accuracy
from .metrics import Loss as Loss
from .metrics import accuracy as accuracy
from .optim import param_groups as param_groups
from .overfit_batch import OverfitBatch as OverfitBatch
from .plots import curves as curves
from .plots import show_images as show_images
from .rng import seed_everything as seed_everything
from .schedules import one_cycle as one_cycle
from .schedules import warmup_cosine as warmup_cosine
from .steps import EvalStep as EvalStep
from .steps import TrainStep as TrainStep
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
