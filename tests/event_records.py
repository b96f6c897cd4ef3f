"""What stands in the event files of a folder, read with TensorBoard's own readers."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from ignite_trainer.handlers.event_files import event_files


def accumulated(folder):
    """TensorBoard's accumulator over the folder, with nothing left out."""
    keep_all = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def scalars(folder):
    """tag → list of (step, value)."""
    found = accumulated(folder)
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def all_steps(folder):
    """tag → the steps of all its records, of whatever kind, in the order of the files."""
    steps = {}
    for path in event_files(folder):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    return steps


def hparams(folder):
    """The session's hparams and its status, None while it runs."""
    start, status = None, None
    for path in event_files(folder):
        for record in RawEventFileLoader(str(path)).Load():
            for value in Event.FromString(record).summary.value:
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if value.tag == metadata.SESSION_START_INFO_TAG:
                    assert start is None
                    found = data.session_start_info.hparams
                    start = {name: getattr(found[name], found[name].WhichOneof("kind")) for name in found}
                if value.tag == metadata.SESSION_END_INFO_TAG:
                    status = data.session_end_info.status
    return start, status
