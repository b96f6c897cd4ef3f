"""The training loop that people write by hand, run as two Ignite engines."""

from .callbacks import Callback as Callback
from .callbacks import run_cbs as run_cbs
from .engines import CancellableEngine as CancellableEngine
from .engines import always as always
from .engines import create_evaluator as create_evaluator
from .engines import create_trainer as create_trainer
from .events import POINTS as POINTS
from .events import CancelBatchException as CancelBatchException
from .events import CancelEpochException as CancelEpochException
from .events import CancelFitException as CancelFitException
from .events import TrainEvents as TrainEvents
from .handlers import EarlyStopping as EarlyStopping
from .handlers import Progress as Progress
from .handlers import TensorBoard as TensorBoard
from .learner import Learner as Learner
from .learner import fit as fit
from .metrics import Accuracy as Accuracy
from .metrics import Loss as Loss
from .metrics import accuracy as accuracy
from .steps import EvalStep as EvalStep
from .steps import TrainStep as TrainStep
from .version import __version__ as __version__
