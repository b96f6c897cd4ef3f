"""The look at a job before it costs anything: facts, hints, seconds per batch."""

from .findings import Finding as Finding
from .findings import Inspection as Inspection
from .job import check as check
