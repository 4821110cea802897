"""The command line of the kit and its exit codes."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tupelo.backend import Unavailable
from tupelo.config import environment
from tupelo.conformance.case import LEVELS, Result, Status
from tupelo.conformance.certificate import reasons_against, write_certificate
from tupelo.conformance.kit import Report, run_kit
from tupelo.conformance.known import read_known
from tupelo.conformance.report import write_reports
from tupelo.conformance.target import Target, find_factory, make
from tupelo.errors import ConfigError

PASS, FAILURE, USAGE, UNAVAILABLE, UNNAMED = range(5)
"""Exit codes: all passed; a failure, an unexpected pass or nothing passed; wrong usage; the backend
says that it is unavailable here; no backend was named."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the kit as ``python -m tupelo.conformance``, and return the exit code.

    Raises:
        SystemExit: from argparse, for ``--help`` (0) and wrong usage (2).
    """
    args = _parser().parse_args(argv)
    certified = args.profile == "certified"
    source = args.backend or environment().backend
    if not source:
        print("no backend named: give --backend or set TUPELO_BACKEND", file=sys.stderr)
        return UNNAMED
    try:
        _check_profile(args)
        levels = _levels(args.level)
        share = _share(args.share)
        known = read_known(args.expect) if args.expect else ()
        factory = find_factory(source)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return USAGE
    except Exception as error:  # importing a vendor's module can raise anything
        print(
            f"importing backend {source} failed: {type(error).__name__}: {error}", file=sys.stderr
        )
        return FAILURE
    try:
        answer = make(factory)
    except Exception as error:  # so can asking it
        print(f"asking backend {source} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILURE
    if isinstance(answer, Unavailable):
        print(f"backend {source} is unavailable: {answer.reason}", file=sys.stderr)
        return UNAVAILABLE
    show = _printer(args.verbose)
    report = run_kit(
        Target(answer, source), levels, only=args.only, share=share, known=known, on_result=show
    )
    if args.report:
        write_reports(report, args.report)
    print(summary(report))
    if not certified:
        return PASS if report.green else FAILURE
    given = sys.argv[1:] if argv is None else argv
    write_certificate(report, args.report, f"tupelo conform {shlex.join(given)}")
    return _verdict(report)


def summary(report: Report) -> str:
    """The verdict in a few lines, red cases first."""
    lines = [f"{r.status.upper()} {r.id}: {r.message}" for r in report.results if _red(r)]
    counts = ", ".join(f"{len(report.having(s))} {s}" for s in Status if report.having(s))
    verdict = "green" if report.green else "RED"
    lines.append(f"{report.target.backend.name}: {verdict} ({counts or 'nothing ran'})")
    return "\n".join(lines)


def _verdict(report: Report) -> int:
    """Say whether the report is a certificate, and why it isn't."""
    backend = report.target.backend
    reasons = reasons_against(report)
    for reason in reasons:
        print(f"NOT CERTIFIED: {reason}")
    if not reasons:
        print(f"{backend.name}: certified on {backend.hardware}")
    return FAILURE if reasons else PASS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tupelo.conformance",
        description="Prove a backend against the hardware contract.",
        epilog="Exit codes: 0 pass; 1 a failure, an unexpected pass, nothing passed, or no "
        "certificate though one was asked for; 2 usage; "
        "3 the backend is unavailable here; 4 no backend named.",
    )
    parser.add_argument("--backend", default="", help="entry point's name, or module:function")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write JUnit, JSON, Markdown")
    parser.add_argument(
        "--profile",
        choices=("certified",),
        help="certified: passes if all cases ran and each claim of the backend was shown on its "
        "hardware; writes certificate.json beside the reports",
    )
    parser.add_argument(
        "--level",
        default=",".join(map(str, LEVELS)),
        help="levels to run: " + ", ".join(f"{n} {what}" for n, what in LEVELS.items()),
    )
    parser.add_argument("--only", default="", metavar="PREFIX", help="only cases with this prefix")
    parser.add_argument(
        "--share",
        default="1/1",
        metavar="K/N",
        help="of these cases every Nth from the Kth on, so that N processes run all",
    )
    parser.add_argument(
        "--expect", type=Path, metavar="FILE", help="known failures, such as conformance.toml"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print every case")
    return parser


def _check_profile(args: argparse.Namespace) -> None:
    if args.profile and not args.report:
        raise ConfigError(f"--profile {args.profile} writes a certificate: give --report DIR")


def _levels(text: str) -> list[int]:
    parts = text.split(",")
    if not all(p in map(str, LEVELS) for p in parts):
        raise ConfigError(f"--level {text}: allowed: {', '.join(map(str, LEVELS))}")
    return [int(p) for p in parts]


def _share(text: str) -> tuple[int, int]:
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise ConfigError(f"--share {text}: allowed: K/N, K from 1 to N")
    return int(k), int(n)


def _printer(verbose: bool) -> Callable[[Result], None]:
    def show(result: Result) -> None:
        if verbose:
            print(f"{result.status:>16}  {result.id}  {result.message}", flush=True)

    return show


def _red(result: Result) -> bool:
    return result.status in (Status.FAILED, Status.UNEXPECTED_PASS)
