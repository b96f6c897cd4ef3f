"""Early stopping, TensorBoard, progress: what hangs on the engines, one file each."""

from .checkpoint import Checkpoint as Checkpoint
from .crash import CrashReport as CrashReport
from .crash import load_crash as load_crash
from .early_stopping import EarlyStopping as EarlyStopping
from .ema import EMA as EMA
from .guards import NaNGuard as NaNGuard
from .guards import TimeLimit as TimeLimit
from .progress import Progress as Progress
from .run_files import RunFiles as RunFiles
from .schedule import Schedule as Schedule
from .tensorboard import TensorBoard as TensorBoard
