"""Cancels, exceptions and changes from callbacks, handlers, model and loader: ours against the documents' loop."""

import pytest

from tests.scenario_run import difference, play_reference
from tests.scenarios import make_scenario, who_may_raise

N_PARTS = 6  # so that parts may run side by side


@pytest.mark.parametrize("part", range(N_PARTS))
def test_fit_in_random_scenarios_equals_the_documents_loop_call_for_call(part, soak):
    count = (5000 if soak else 300) // N_PARTS
    found = next(filter(None, map(difference, range(part * count, (part + 1) * count))), None)
    assert found is None, found


def test_scenarios_when_300_are_played_then_every_cancel_was_raised_at_every_place():
    raised = {place for number in range(300) for place in play_reference(make_scenario(number)).raised}
    assert set(who_may_raise()) - raised == set()
