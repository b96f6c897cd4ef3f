"""The one comparison, against an oracle that decides by exact fractions over whole sequences."""

import itertools
import json
import math
from fractions import Fraction

import pytest

from ignite_trainer.handlers.best import Best, check_monitor, mode_for

NAN, INF = float("nan"), float("inf")
CONFIGS = [
    {"mode": mode, "min_delta": min_delta, "relative": relative}
    for mode in ("min", "max")
    for min_delta in (0.0, 1.0)
    for relative in (False, True)
]


def beats(value, other, *, mode, min_delta, relative):
    """Whether a value that is not NaN beats another: by gain, in fractions, where both are finite."""
    if math.isinf(value) or math.isinf(other):
        return (value < other) if mode == "min" else (value > other)
    gain = Fraction(other) - Fraction(value) if mode == "min" else Fraction(value) - Fraction(other)
    return gain > (Fraction(min_delta) * abs(Fraction(other)) if relative else Fraction(min_delta))


def oracle(values, config):
    """For every place of a sequence (better?, best, values since the best), from places instead of counters."""
    answers, best_at = [], None
    for place, value in enumerate(values):
        better = value == value and (best_at is None or beats(value, values[best_at], **config))
        best_at = place if better else best_at
        answers.append(
            (better, None if best_at is None else values[best_at], place - (-1 if best_at is None else best_at))
        )
    return answers


def answers_of(values, config, *, resume_at):
    """What a `Best` answers, saved and resumed by a new one before the value at a place."""
    best, answers = Best("score", **config), []
    for place, value in enumerate(values):
        if place == resume_at:
            state = best.state_dict()
            best = Best("score", **config)
            best.load_state_dict(state)
        answers.append((best.update(value), best.best, best.bad))
    return answers


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
def test_best_on_every_sequence_of_six_equals_the_oracle_wherever_it_was_resumed(config, soak):
    # between 0, 1 and -2 a delta of 1 decides otherwise than a relative one
    alphabet = (-2, 0, 1, NAN, INF, -INF) if soak else (-2, 0, 1, NAN, INF)
    for number, values in enumerate(itertools.product(alphabet, repeat=6)):
        expected = oracle(values, config)
        for resume_at in range(7) if soak else [number % 7]:
            assert answers_of(values, config, resume_at=resume_at) == expected, (values, resume_at)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_relative_delta_with_negative_scores_asks_for_a_gain(mode):
    worse, close, better = (-1.05, -0.95, -0.85) if mode == "max" else (-0.95, -1.05, -1.15)
    best = Best("score", mode=mode, min_delta=0.1, relative=True)
    assert [best.update(value) for value in (-1.0, worse, close, better)] == [True, False, False, True]


def test_exhausted_when_as_many_as_patience_were_not_better():
    best = Best("accuracy", patience=2)
    assert [(best.update(value), best.exhausted)[1] for value in (1, 1, 2, NAN, 2, 3)] == [
        *(False, False, False, False),
        True,
        False,
    ]


def test_exhausted_with_a_patience_of_one_at_the_first_that_is_not_better():
    best = Best("accuracy", patience=1)
    assert [(best.update(value), best.exhausted)[1] for value in (1, 2, 2)] == [False, False, True]


def test_min_delta_is_absolute_unless_said_otherwise():
    best = Best("accuracy", min_delta=0.5)
    assert [best.update(value) for value in (0.1, 0.2, 0.7)] == [True, False, True]


def test_exhausted_when_all_values_are_nan():
    best = Best("accuracy", patience=3)
    assert [(best.update(NAN), best.exhausted)[1] for _ in range(3)] == [False, False, True]
    assert best.best is None


def test_exhausted_without_patience_never_is():
    best = Best("accuracy")
    for _ in range(100):
        best.update(NAN)
    assert not best.exhausted


@pytest.mark.parametrize("values", [[], [NAN], [INF], [0.1, 0.2], [1]])
def test_state_dict_is_plain_data_that_survives_json(values):
    best = Best("valid_loss")
    for value in values:
        best.update(value)
    state = best.state_dict()
    assert json.loads(json.dumps(state)) == state


def test_state_dict_resumed_with_another_patience_goes_on_with_the_count():
    best = Best("accuracy", patience=5)
    for value in (1, 0, 0):
        best.update(value)
    more_eager = Best("accuracy", patience=2)
    more_eager.load_state_dict(best.state_dict())
    assert more_eager.exhausted


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        *(
            (name, "min")
            for name in ("valid_loss", "train_loss", "valid_error_rate", "RMSE", "valid_mae", "Perplexity")
        ),
        *((name, "max") for name in ("valid_accuracy", "f1", "auc", "valid_bleu")),
    ],
)
def test_mode_auto_goes_by_the_name(monitor, mode):
    assert mode_for(monitor) == Best(monitor).mode == mode


def test_mode_auto_when_the_name_does_not_tell_then_warns_and_takes_the_higher_for_better():
    with pytest.warns(UserWarning, match="^mode='auto' goes by the name, and 'valid_x' does not tell: it is taken to"):
        assert Best("valid_x").mode == "max"
    assert Best("valid_x", mode="min").mode == "min"


@pytest.mark.parametrize(
    "name", ["valid_f1-score", "valid_top5", "top_5", "valid_map50", "mAP@0.5", "explained_variance"]
)
def test_mode_auto_when_a_name_has_other_signs_or_numbers_then_its_words_count(name):
    assert Best(name).mode == "max"


def test_mode_given_overrules_the_name():
    best = Best("margin_loss", mode="max")
    assert [best.update(1), best.update(2)] == [True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mn"}, "mode is 'min' if lower is better, 'max' if higher is, or 'auto'; got 'mn'"),
        ({"min_delta": -0.1}, "min_delta is by how much a value must beat the best, at least 0 and finite; got -0.1"),
        ({"min_delta": NAN}, "min_delta is by how much .* got nan"),
        ({"min_delta": INF}, "min_delta is by how much .* got inf"),
        ({"patience": 0}, "patience is a number of epochs, at least 1, or None for no end; got 0"),
    ],
)
def test_best_given_a_wrong_option_names_it(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Best("accuracy", **options)


def test_check_monitor_refuses_what_no_row_has_and_names_what_they_have():
    check_monitor("loss", ["loss", "accuracy"])
    message = "^monitor is a key of a history row, one of loss, accuracy; got 'los'$"
    with pytest.raises(ValueError, match=message):
        check_monitor("los", ["loss", "accuracy"])


@pytest.mark.parametrize("other", [Best("accuracy"), Best("valid_loss", mode="max")])
def test_load_state_dict_of_another_monitor_or_mode_is_refused(other):
    best = Best("valid_loss")
    best.update(0.5)
    with pytest.raises(
        ValueError, match=r"saved for '\w+' in mode 'max', and is now asked for 'valid_loss' in mode 'min'"
    ):
        best.load_state_dict(other.state_dict())
    assert (best.best, best.bad) == (0.5, 0)


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("valid_wer", "min"),
        ("valid_NLL", "min"),
        ("valid_crossentropy", "min"),
        ("valid_fpr", "min"),
        ("valid_answer", "max"),
        ("valid_certainty", "max"),
    ],
)
def test_mode_when_a_words_meaning_is_plain_then_goes_by_it(name, mode):
    assert mode_for(name) == mode
