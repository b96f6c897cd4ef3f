"""The one answer to "is this value better?", for early stopping, best checkpoints and whatever waits for a plateau."""

import math
import re
from collections.abc import Sequence
from typing import Literal, TypedDict

from ..arguments import is_number, is_whole
from ..user_warnings import warn_user

__all__ = ["Best", "BestState", "check_monitor", "direction_of", "mode_for"]

# anywhere in a name
LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "msle", "perplexity", "crossentropy", "hausdorff")
_LOWER = (
    "ade bce bpc brier ce cer chamfer cost crps deviance distance divergence ece eer energy entropy err fde fid fnr "
    "fpr hamming hinge kl kld l1 l2 lpips mape mdape nll penalty ppl smape ter wasserstein wer"
)
_HIGHER = (
    "acc accuracy ami ap ari auc auprc auroc bertscore bleu chrf cider correct correlation dice elbo em explained f1 "
    "fbeta gmean hit hits hota idf1 iou jaccard kappa likelihood map match matthews mcc meteor miou mota mrr ndcg nmi "
    "npv oks pck pearson ppv pq precision psnr r2 recall return reward rocauc rouge rougel score sensitivity spearman "
    "specificity ssim success tnr top tpr"
)
LOWER_AS_WORDS, HIGHER_AS_WORDS = frozenset(_LOWER.split()), frozenset(_HIGHER.split())


def check_monitor(monitor: str, monitors: Sequence[str]) -> None:
    """Refuse a monitor that no history row will have.

    Args:
        monitor: the name asked for.
        monitors: the keys that the rows will have, ``learn.monitors``.

    Raises:
        ValueError: it is none of them; names them all.

    >>> check_monitor("loss", ["train_loss", "valid_loss"])
    Traceback (most recent call last):
    ValueError: monitor is a key of a history row, one of train_loss, valid_loss; got 'loss'
    """
    if monitor not in monitors:
        unvalidated = monitor.startswith("valid_") and "valid_loss" not in monitors
        raise ValueError(
            f"monitor is a key of a history row, one of {', '.join(monitors)}; got {monitor!r}"
            + (": there is no validation loader, give one" if unvalidated else "")
        )


class BestState(TypedDict):
    """What a `Best` knows, as plain data."""

    monitor: str
    mode: str
    best: float | None
    bad: int


def direction_of(monitor: str) -> Literal["min", "max"] | None:
    """The direction in which a value of this name gets better, where the name tells.

    Args:
        monitor: a key of a history row. "min" if it has loss, error or another of ``LOWER_IS_BETTER`` in it, or one of
            its words is wer, nll or another of ``LOWER_AS_WORDS``; "max" if one is accuracy, auc or another of
            ``HIGHER_AS_WORDS``.

    >>> direction_of("valid_loss"), direction_of("valid_wer"), direction_of("valid_accuracy"), direction_of("valid_x")
    ('min', 'min', 'max', None)
    """
    name = monitor.lower()
    words = re.split("[^a-z0-9]+", name)
    words += [word.rstrip("0123456789") for word in words]  # top5, map50
    if any(part in name for part in LOWER_IS_BETTER) or not LOWER_AS_WORDS.isdisjoint(words):
        return "min"
    return None if HIGHER_AS_WORDS.isdisjoint(words) else "max"


def mode_for(monitor: str) -> Literal["min", "max"]:
    """The direction in which a value of this name gets better; "max" where the name does not tell.

    >>> mode_for("valid_loss"), mode_for("valid_x")
    ('min', 'max')
    """
    return direction_of(monitor) or "max"


class Best:
    """The best value seen so far, and how many values came since.

    NaN is never better, whatever came before. Anything else is better than nothing, an infinite value too, and a finite
    value is better than an infinite one on the wrong side; only the first of equal values is the best.

    Args:
        monitor: name of the value, a key of a history row.
        mode: "min" if lower is better, "max" if higher is; "auto" decides by the name, see `mode_for`.
        min_delta: a value is better only if it beats the best by more than this; 0 for any improvement.
        relative: whether ``min_delta`` is a fraction of the best's absolute value, so that it is right below 0 too.
        patience: values in a row that are not better after which `exhausted` is True; None for never.

    Raises:
        TypeError: a monitor that is no name.
        ValueError: another mode, a ``min_delta`` that is negative or not finite, or a ``patience`` below 1.

    Warns:
        UserWarning: "auto", and the name does not tell.

    >>> best = Best("valid_loss", patience=2)
    >>> [best.update(loss) for loss in (0.5, 0.4, float("nan"), 0.4)]
    [True, True, False, False]
    >>> best.best, best.bad, best.exhausted
    (0.4, 2, True)
    """

    def __init__(
        self,
        monitor: str,
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        min_delta: float = 0.0,
        relative: bool = False,
        patience: int | None = None,
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor is the name of what is compared, such as 'valid_loss'; got {monitor!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode is 'min' if lower is better, 'max' if higher is, or 'auto'; got {mode!r}")
        if not (is_number(min_delta) and 0 <= min_delta < math.inf):
            raise ValueError(
                f"min_delta is by how much a value must beat the best, at least 0 and finite; got {min_delta!r}"
            )
        if patience is not None and (not is_whole(patience) or patience < 1):
            raise ValueError(f"patience is a number of epochs, at least 1, or None for no end; got {patience!r}")
        if mode == "auto" and direction_of(monitor) is None:
            warn_user(
                f"mode='auto' goes by the name, and {monitor!r} does not tell: it is taken to be better the higher it "
                "is; give mode='max' or mode='min'"
            )
        self.monitor = monitor
        self.mode: Literal["min", "max"] = mode_for(monitor) if mode == "auto" else mode
        self.min_delta = min_delta
        self.relative = relative
        self.patience = patience
        self.best: float | None = None
        """The best value so far; None before the first that is not NaN."""
        self.bad = 0
        """How many values came since the best one."""

    def update(self, value: float) -> bool:
        """Takes the next value in; whether it is better than all before, and so is the best now."""
        better = self._is_better(value)
        if better:
            self.best, self.bad = float(value), 0
        else:
            self.bad += 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` values in a row were not better."""
        return self.patience is not None and self.bad >= self.patience

    def state_dict(self) -> BestState:
        """What was seen so far, as plain data."""
        return {"monitor": self.monitor, "mode": self.mode, "best": self.best, "bad": self.bad}

    def load_state_dict(self, state: BestState) -> None:
        """Goes on from where `state_dict` was taken; ``min_delta`` and ``patience`` may have changed since.

        Raises:
            ValueError: the state is of another monitor or mode, whose best says nothing about this one's.
        """
        if (state["monitor"], state["mode"]) != (self.monitor, self.mode):
            raise ValueError(
                f"the best value was saved for {state['monitor']!r} in mode {state['mode']!r}, and is now asked for "
                f"{self.monitor!r} in mode {self.mode!r}: the same monitor and mode are needed to resume"
            )
        self.best, self.bad = state["best"], state["bad"]

    def _is_better(self, value: float) -> bool:
        if math.isnan(value) or self.best is None:
            return not math.isnan(value)
        margin = self.min_delta * abs(self.best) if self.relative else self.min_delta
        if math.isinf(self.best):
            margin = 0.0  # a fraction of infinity would be infinite, or NaN, and nothing could beat it
        return value < self.best - margin if self.mode == "min" else value > self.best + margin
