"""`scripts/bench`: measure, then say what came out and whether it is what was hoped for."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.against_peers import FUSIONS as CONTENDERS
from benchmarks.against_peers import measure_against_peers
from benchmarks.chaos import measure_chaos
from benchmarks.demo import measure_demo
from benchmarks.figures import Figure, load
from benchmarks.fusion import FUSIONS, measure_fusions
from benchmarks.judging import FUSIONS as JUDGED
from benchmarks.judging import measure_judging
from benchmarks.overhead import measure_overhead
from benchmarks.passthrough import measure_passthrough
from benchmarks.planner import measure_planner
from benchmarks.report import print_json, print_table
from benchmarks.scheduler import measure_scheduler
from benchmarks.serving import serving
from benchmarks.soak import measure_soak
from benchmarks.startup import measure_startup
from benchmarks.voting import measure_voting
from local_fusion.cli.running import run
from local_fusion.errors import LocalFusionError

MOST_REPEATS = 50
LEAST_SECONDS, MOST_SECONDS = 5, 7 * 24 * 3600  # of a soak
INTERRUPTED = 130


def main() -> int:
    """Measure what the command line asks for; the exit code."""
    options = _options()
    figures: list[Figure] = []
    before = load()
    try:
        with tempfile.TemporaryDirectory(prefix="lf-bench-") as folder:
            run(_measure(options, Path(folder), figures))
    except LocalFusionError as error:
        print(f"scripts/bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("scripts/bench: interrupted; everything that was started has been stopped", file=sys.stderr)
        return INTERRUPTED
    (print_json if options.json else print_table)(before, load(), figures)
    return 1 if options.strict and not all(figure.met for figure in figures) else 0


async def _measure(options: argparse.Namespace, folder: Path, figures: list[Figure]) -> None:
    what, repeat = options.what, options.repeat
    if what in ("planner", "all"):
        figures += await measure_planner(repeat or 20, _tell)
    if what in ("scheduler", "all"):
        figures += await measure_scheduler(repeat or 3, _tell)
    if what in ("chaos", "all"):
        figures += await measure_chaos(folder, _tell)
    if what in ("startup", "all"):
        figures += await measure_startup(folder, repeat or 5, _tell)
    if what in ("fusion", "passthrough", "all"):
        _tell("starting the engine, without a prefix cache")
        async with serving(FUSIONS, folder, prefix_cache=False) as served:
            await served.wait_until("/ready")
            if what != "passthrough":
                figures += await measure_fusions(served, repeat or 7, _tell)
            if what != "fusion":
                figures.append(await measure_passthrough(served, repeat or 7, _tell))
    if what in ("fusion", "judging", "all"):
        _tell("starting the engine")
        async with serving({**CONTENDERS, **JUDGED}, folder) as served:
            await served.wait_until("/ready")
            if what != "judging":
                figures += await measure_against_peers(served, repeat or 5, _tell)
            if what != "fusion":
                figures += await measure_judging(served, repeat or 16, _tell)
    if what in ("overhead", "all"):
        figures += await measure_overhead(folder, repeat or 5, _tell, real=options.real)
    if what == "soak":
        figures += await measure_soak(folder, options.seconds, _tell, plot=options.plot)
    if what in ("voting", "all"):
        figures += await measure_voting(folder, repeat or 8, _tell)
    if what in ("demo", "all"):
        figures.append(await measure_demo(folder, repeat or 1, _tell))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures local-fusion, with engines of real vLLM and SmolLM2, each figure next to its target. "
        "Nothing else should be running: the machine's load is told with the figures.",
        epilog="fusion: strategies over a panel of three, against the same engine calls made directly, and against "
        "other programs that are installed below .peers (it says how). judging: judges that read probabilities against "
        "one that writes. "
        "passthrough: 16 streams through our server, against the engine's own socket. "
        "overhead: 1, 32 and 256 streams through our server and through the LiteLLM proxy, against the engine's own "
        "socket, over a fast fake engine (--real: over vLLM). "
        "soak: clients of every kind, also of the worst, for ten minutes over fake engines, and whether the server "
        "stays flat; not part of all. "
        "voting: an adaptive vote over recorded samples of 64 questions; minutes. "
        "startup: our programs without engines. demo: scripts/demo, the second time. "
        "planner: plans for eight GPUs on paper, against simpler ways to place the same models; no engine is started. "
        "scheduler: six models on a card that holds two, simulated, against llama-swap's and Ollama's ways to swap. "
        "chaos: 500 requests at a time to a hundred members each, over fake engines killed and frozen; minutes.",
    )
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=(
            "planner",
            "scheduler",
            "chaos",
            "fusion",
            "judging",
            "passthrough",
            "overhead",
            "soak",
            "voting",
            "startup",
            "demo",
            "all",
        ),
        help="default: all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--seconds", type=_seconds, default=600, metavar="S", help="soak: for so long (default: 600)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="soak: draw memory, descriptors and tasks into FILE")
    parser.add_argument("--real", action="store_true", help="overhead: over vLLM with SmolLM2, not over a fake engine")
    parser.add_argument(
        "--repeat",
        type=_repeats,
        metavar="N",
        help="measure N times (default: 7 pairs, 5 starts, 1 demo, 20 plans, 3 workloads, 8 replays)",
    )
    return parser.parse_args()


def _repeats(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_REPEATS:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_REPEATS}, got '{text}'")
    return int(text)


def _seconds(text: str) -> float:
    if not text.isdecimal() or not LEAST_SECONDS <= int(text) <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected a number from {LEAST_SECONDS} to {MOST_SECONDS}, got '{text}'")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
