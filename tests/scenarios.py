"""Random scenarios: small fits in which callbacks, native handlers, model and loader change, draw, cancel and raise.

A scenario is a pure function of its number, plain data, and says all that happens; `tests.scenario_run` plays it.
"""

import random
from dataclasses import dataclass, field

IN_BATCH = ("before_batch", "after_predict", "after_loss", "after_backward", "after_step", "after_batch")
PLACES = (
    *(("train", point) for point in ("before_fit", "before_epoch", *IN_BATCH, "after_epoch")),
    *(("train", point) for point in ("after_validate", "after_fit")),
    *(("valid", point) for point in ("before_epoch", "before_batch", "after_predict", "after_loss", "after_batch")),
    ("valid", "after_epoch"),
)
POINTS = tuple(dict.fromkeys(point for _, point in PLACES))
INSIDE = (
    *((phase, where) for phase in ("train", "valid") for where in ("forward", "loss", "iter", "next")),
    ("train", "step"),
)
CANCELS = ("CancelBatchException", "CancelEpochException", "CancelFitException")
OTHERS = (*(f"My{cancel}" for cancel in CANCELS), "Foreign", "ForeignBase", "StopIteration")  # My: a subclass
HABITS = {  # what a callback or handler may do each time it is called, and where that makes sense
    "draw": POINTS,
    "new_batch": ("before_batch", "after_predict"),
    "new_preds": ("after_predict",),
    "new_loss": ("after_loss",),
    "new_grads": ("after_backward", "after_step"),
    "resize_train": ("before_epoch", "after_epoch", "after_validate"),
    "resize_valid": ("before_epoch", "after_epoch"),
}
SIZES = (4, 6, 7, 8, 10, 11)  # of the data; with batches of 4 never a last batch of 1, which batch norm refuses
LONGEST_EPOCH = 3  # batches
N_EPOCHS = (1, 2, 2, 3, 3, 0)  # of a fit; 0 only reaches before_fit and after_fit


def who_may_raise():
    """Every (kind, phase, where, cancel) that the scenarios between them try, each in turn."""
    hooks = [(kind, *place, cancel) for kind in ("callback", "native") for place in PLACES for cancel in CANCELS]
    inside = [("inside", *place, cancel) for place in INSIDE for cancel in CANCELS]
    return hooks + inside


@dataclass
class Actor:
    """A callback, or a native handler: where it is called, what it does there, during which fits it is attached."""

    name: str
    places: tuple  # points for a callback; (phase, points) with one point, or two joined by | in Ignite, for a handler
    habits: tuple  # of (point, habit)
    fits: range
    order: int = 0
    duck: bool = False  # a callback without the base class; a handler that takes no argument


@dataclass
class Scenario:
    """Everything that happens, as plain data."""

    number: int
    n_epochs: list
    model: str
    optimizer: str
    dls: str  # the form in which the pair of loaders is handed over
    loader: str
    sizes: dict
    shuffle: bool
    drop_last: bool
    own_generator: bool
    workers: int
    callbacks: list
    natives: list
    raises: dict = field(default_factory=dict)  # (fit, actor, phase, point, epoch, iteration) -> exception's name


def make_scenario(number):
    """The scenario with this number, the same in every process."""
    rng = random.Random(number)
    n_epochs = [rng.choice(N_EPOCHS) for _ in range(rng.randint(1, 3))]
    has_valid = rng.random() < 0.85
    scenario = Scenario(
        number=number,
        n_epochs=n_epochs,
        model=rng.choice(("dropout", "batch_norm")),
        optimizer=rng.choice(("sgd", "momentum", "adam", "plain")),
        dls=rng.choice(("DataLoaders", "object", "pair")),
        loader=rng.choice(("stock", "sized", "unsized")),
        sizes={"train": rng.choice(SIZES), "valid": rng.choice(SIZES) if has_valid else None},
        shuffle=rng.random() < 0.8,
        drop_last=rng.random() < 0.3,
        own_generator=rng.random() < 0.5,
        workers=int(number % 100 == 99),  # a process an epoch: slow
        callbacks=[_callback(rng, i, len(n_epochs)) for i in range(rng.randint(1, 4))],
        natives=[_native(rng, i, len(n_epochs)) for i in range(rng.randint(0, 5))],
    )
    combinations = who_may_raise()
    turn, i = divmod(number, len(combinations))
    certain = turn % 2 == 0  # that it comes to this: it is raised at once, others raise in later fits only
    _raise_at(rng, scenario, range(1) if certain else range(len(n_epochs)), *combinations[i], certain)
    fits = range(int(certain), len(n_epochs))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 4)) if fits else 0):
        kind, phase, where, cancel = rng.choice(combinations)
        exception = rng.choice(OTHERS) if rng.random() < 0.25 else cancel
        _raise_at(rng, scenario, fits, kind, phase, where, exception)
    return scenario


def _callback(rng, i, n_fits):
    points = tuple(point for point in POINTS if rng.random() < 0.6)
    fits = _fits(rng, n_fits) if i > 0 else range(n_fits)
    return Actor(f"callback{i}", points, _habits(rng, points), fits, rng.choice((-1, 0, 0, 5)), _coin(rng))


def _native(rng, i, n_fits):
    phase, point = rng.choice(PLACES)
    points = (point,)
    if point in ("before_batch", "after_batch") and _coin(rng):
        points = ("before_batch", "after_batch")
    return Actor(f"native{i}", (phase, points), _habits(rng, points), _fits(rng, n_fits), duck=_coin(rng))


def _habits(rng, points):
    return tuple((p, h) for p in points for h, where in HABITS.items() if p in where and rng.random() < 0.2)


def _fits(rng, n_fits):
    first = rng.randrange(n_fits) if rng.random() < 0.2 else 0
    last = rng.randint(first, n_fits) if rng.random() < 0.2 else n_fits
    return range(first, last)


def _coin(rng):
    return rng.random() < 0.5


def _raise_at(rng, scenario, fits, kind, phase, where, exception, certain=False):
    """Let somebody raise there in one of the fits, in an epoch and batch that may never come unless it is certain."""
    fit = rng.choice(fits)
    scenario.n_epochs[fit] = max(1, scenario.n_epochs[fit])
    epoch = None if where in ("before_fit", "after_fit") else 0 if certain else rng.randrange(scenario.n_epochs[fit])
    in_batch = where in IN_BATCH or (kind == "inside" and where != "iter")
    iteration = (0 if certain else rng.randrange(rng.randint(1, LONGEST_EPOCH))) if in_batch else None
    if kind == "inside":
        name = {"forward": "model", "loss": "loss_func", "step": "optimizer", "iter": "loader", "next": "loader"}[where]
        if name == "optimizer":
            scenario.optimizer = "plain"
        if name == "loader" and scenario.loader == "stock":
            scenario.loader = rng.choice(("sized", "unsized"))
        if exception == "StopIteration":
            exception = "Foreign"  # there it is the loader's end
    else:
        name, where = _somebody(rng, scenario, kind, phase, where)
    if phase == "valid" and scenario.sizes["valid"] is None:
        scenario.sizes["valid"] = rng.choice(SIZES)
    scenario.raises[fit, name, phase, where, epoch, iteration] = exception


def _somebody(rng, scenario, kind, phase, point):
    """A callback or handler that is called there, made where there is none: its name, and how it calls the point."""
    if kind == "callback":
        callback = rng.choice([callback for callback in scenario.callbacks if 0 in callback.fits])
        if point not in callback.places:
            callback.places += (point,)
        return callback.name, point
    there = [native for native in scenario.natives if (native.places[0], native.places[1][0]) == (phase, point)]
    there = [native for native in there if 0 in native.fits]
    if not there:
        fits = range(len(scenario.n_epochs))
        there = [Actor(f"native{len(scenario.natives)}", (phase, (point,)), (), fits, duck=_coin(rng))]
        scenario.natives += there
    native = rng.choice(there)
    return native.name, "|".join(native.places[1])
