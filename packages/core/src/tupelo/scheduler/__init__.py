"""The scheduler: which requests, which pages, which tokens. Imports no torch."""

from tupelo.scheduler.builder import Row, Step
from tupelo.scheduler.config import SchedulerConfig
from tupelo.scheduler.entry import Entry, Matcher, Phase
from tupelo.scheduler.results import Ended, grammar_ending
from tupelo.scheduler.scheduler import Scheduler

__all__ = [
    "Ended",
    "Entry",
    "Matcher",
    "Phase",
    "Row",
    "Scheduler",
    "SchedulerConfig",
    "Step",
    "grammar_ending",
]
