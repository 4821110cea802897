"""The conformance kit: proves a backend against the hardware contract, from wheels alone."""

from tupelo.conformance.case import CheckFailed, Result, Status
from tupelo.conformance.cli import main
from tupelo.conformance.kit import Report, run_kit
from tupelo.conformance.known import KnownFailure, read_known
from tupelo.conformance.report import write_reports
from tupelo.conformance.target import Target

__all__ = [
    "CheckFailed",
    "KnownFailure",
    "Report",
    "Result",
    "Status",
    "Target",
    "main",
    "read_known",
    "run_kit",
    "write_reports",
]
