"""Early stopping, TensorBoard, progress: what hangs on the engines, one file each."""

from .early_stopping import EarlyStopping as EarlyStopping
from .progress import Progress as Progress
from .tensorboard import TensorBoard as TensorBoard
