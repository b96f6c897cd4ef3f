"""The public surface, written out: a change of it is a change of this list, on purpose."""

import inspect

import ignite_trainer

NAMES = """
    Accuracy CSVImages Callback CancelBatchException CancelEpochException CancelFitException CancellableEngine
    Checkpoint DataLoaders EMA EarlyStopping EvalStep LRFinder Learner Loss NaNGuard OverfitBatch POINTS Progress
    RunFiles SampleLoader Schedule TensorBoard TensorLoader TimeLimit TrainEvents TrainStep accuracy always check
    create_evaluator create_trainer curves fashion_mnist fit glyphs image_folder mnist one_cycle param_groups
    random_split run_cbs seed_everything show_images warmup_cosine
"""

SIGNATURES = {
    "fit": "epochs model optimizer loss_fn train_dl valid_dl * cbs",
    "Learner": "model dls loss_func lr cbs opt_func * optimizer param_groups metrics device precision accumulate "
    "clip_norm compile prepare_batch step loss_size folder",
    "Learner.fit": "self n_epochs * resume",
    "Learner.evaluate": "self dl",
    "Learner.predict": "self dl",
    "Learner.export": "self path format * x",
    "Learner.save": "self path",
    "Learner.load": "self path",
    "EarlyStopping": "monitor * mode patience min_delta relative start_epoch restore_best",
    "Checkpoint": "folder * every_steps every_epochs every_seconds keep monitor mode background",
    "Schedule": "scheduler * step monitor",
    "TensorBoard": "folder * every_steps images histograms pr_curves graph hparams",
    "LRFinder": "learn * start_lr end_lr n_steps cbs",
    "OverfitBatch": "learn * n_steps batch lr cbs",
    "check": "learn * n_batches",
    "run_cbs": "cbs method_name learn",
    "CSVImages": "csv_file root_dir transform * classes path_column label_column",
    "show_images": "images labels * rows cols",
}


def written(function):
    """The names of the parameters, with a star before those that are keyword-only."""
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(parameter.name)
    return " ".join(parts)


def test_public_names_when_listed_then_are_these():
    modules = {name for name in vars(ignite_trainer) if inspect.ismodule(getattr(ignite_trainer, name))}
    assert {name for name in vars(ignite_trainer) if not name.startswith("_")} - modules == set(NAMES.split())


def test_public_names_when_all_are_imported_then_modules_of_the_package_hide_none_of_the_users():
    assert sorted(ignite_trainer.__all__) == NAMES.split()
    assert not any(inspect.ismodule(getattr(ignite_trainer, name)) for name in ignite_trainer.__all__)


def test_signatures_when_written_out_then_are_these():
    for name, parameters in SIGNATURES.items():
        thing = ignite_trainer
        for part in name.split("."):
            thing = getattr(thing, part)
        assert written(thing) == parameters, name


def test_public_names_when_looked_up_then_all_have_a_docstring():
    assert all(inspect.getdoc(getattr(ignite_trainer, name)) for name in NAMES.split() if name != "POINTS")
