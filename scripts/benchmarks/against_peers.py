"""Our strategies next to what other programs call the same, over the same engine and with the same limits."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.endpoints import Endpoint, endpoints
from benchmarks.figures import Figure, Tell, pair
from benchmarks.serving import ENGINE, ROOT, Served
from local_fusion.errors import SetupError

HALF = 0.5
TOKENS = 128  # of an answer
SAMPLES = {"model": ENGINE, "temperature": 1}
FUSIONS = {
    "ours-synthesize": {
        "strategy": "synthesize",
        "panel": [{**SAMPLES, "samples": 3}],
        "judge": ENGINE,
        "analysis": False,
    },
    "ours-best-of": {"strategy": "best_of", "panel": [{**SAMPLES, "samples": 3}], "judge": ENGINE},
    # A mark for each candidate by itself, as bon gives them.
    "ours-best-of-by-marks": {
        "strategy": "best_of",
        "panel": [{**SAMPLES, "samples": 3}],
        "judge": {"kind": "pointwise", "model": ENGINE},
    },
    "ours-vote": {"strategy": "vote", "panel": [{**SAMPLES, "samples": 5}], "extract": "text"},
    # llm-consortium cannot limit its answers: whom it asks does it for it.
    "capped": {"strategy": "single", "panel": [{"model": ENGINE, "max_tokens": TOKENS}]},
}
PROMPTS = (
    "Explain in detail how a bicycle stays upright.",
    "Why does bread rise, and what happens if the dough rests for too long?",
    "Describe how a lock on a canal lifts a boat.",
    "What makes a good teacher, and what makes a bad one?",
    "How does a vaccine train the body?",
    "Compare a wood fire with a gas stove for cooking.",
    "Why do some cities grow while others shrink?",
    "Tell the story of how paper came to Europe.",
)
_START_SECONDS = 120.0
_ANSWER_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another program: the folder of its environment, how to make that, and the program that calls it there."""

    name: str
    install: str
    program: str

    @property
    def python(self) -> Path:
        """The Python of its environment: below `LOCAL_FUSION_PEERS`, by default `.peers`."""
        return Path(os.environ.get("LOCAL_FUSION_PEERS", ROOT / ".peers")) / self.name / "bin" / "python"


OPTILLM = Peer("optillm", "optillm==0.4.0", "optillm_side.py")
CONSORTIUM = Peer("llm-consortium", "llm-consortium==0.8.0 numpy scikit-learn", "llm_consortium_side.py")
# Ours, the peer, what it calls the same thing, and the model that it asks.
CONTESTS = (
    ("ours-synthesize", OPTILLM, "moa", ENGINE),
    ("ours-best-of-by-marks", OPTILLM, "bon", ENGINE),
    ("ours-best-of", OPTILLM, "bon", ENGINE),
    ("ours-vote", OPTILLM, "self_consistency", ENGINE),
    ("ours-synthesize", CONSORTIUM, "synthesis", "capped"),
    ("ours-synthesize", CONSORTIUM, "synthesis, one round", "capped"),
    ("ours-best-of-by-marks", CONSORTIUM, "rank", "capped"),
    ("ours-best-of-by-marks", CONSORTIUM, "rank, one round", "capped"),
)


async def measure_against_peers(served: Served, repeat: int, tell: Tell) -> list[Figure]:
    """Wall time of ours over a peer's, for `repeat` pairs each; peers that are not installed are left out and told."""
    figures = []
    async with endpoints(served.url, served.engine_socket) as (server, _):
        for peer in (OPTILLM, CONSORTIUM):
            if not peer.python.is_file():
                folder = peer.python.parents[1]
                tell(
                    f"{peer.name} is not installed: python3 -m venv {folder} && {folder}/bin/pip install {peer.install}"
                )
                continue
            async with _running(peer) as process:
                contests = [contest for contest in CONTESTS if contest[1] is peer]
                figures += [await _contest(contest, process, server, repeat, tell) for contest in contests]
    return figures


async def _contest(
    contest: tuple[str, Peer, str, str], process: Process, server: Endpoint, repeat: int, tell: Tell
) -> Figure:
    name, peer, way, model = contest
    ratios, ours_tokens, seconds = [], [], []
    for number in range(repeat):
        prompt = PROMPTS[number % len(PROMPTS)]
        asked = {"way": way, "base_url": f"{server.url}/v1", "model": model, "prompt": prompt, "max_tokens": TOKENS}
        ours, theirs = await pair(
            number,
            partial(_ours, server, name, prompt),
            partial(_theirs, process, asked),
        )
        ratios.append(ours["seconds"] / theirs["seconds"])
        ours_tokens.append(ours["tokens"])
        seconds.append((ours["seconds"], theirs["seconds"]))
        tell(f"{name} {ours['seconds']:.1f} s, {peer.name} {way} {theirs['seconds']:.1f} s")
    return Figure(
        f"{name.removeprefix('ours-')}: wall time, ours / {peer.name} {way}",
        "×",
        tuple(ratios),
        HALF,
        details={
            "ours_seconds": round(median(pair[0] for pair in seconds), 2),
            "theirs_seconds": round(median(pair[1] for pair in seconds), 2),
            "ours_completion_tokens": median(ours_tokens),
            "installed_as": peer.install,
        },
    )


async def _ours(server: Endpoint, name: str, prompt: str) -> dict[str, Any]:
    answer, seconds = await server.chat(
        {"model": name, "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS}
    )
    if answer["fusion"]["partial"]:
        raise SetupError(f"{name} did not come out whole: {answer['fusion']['failed']}")
    return {"seconds": seconds, "tokens": answer["usage"]["completion_tokens"]}


async def _theirs(process: Process, asked: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    await process.stdin.drain()
    return await _said(process, _ANSWER_SECONDS)


async def _said(process: Process, within: float) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), within)
    except TimeoutError:
        raise SetupError(f"a peer did not answer within {within:g} s") from None
    if not line:
        raise SetupError(f"a peer ended with exit code {await process.wait()}; see what it said above")
    answer: dict[str, Any] = json.loads(line)
    return answer


@asynccontextmanager
async def _running(peer: Peer) -> AsyncIterator[Process]:
    """The peer's process, ready; it ends with its input, or is killed."""
    program = Path(__file__).parent / "peers" / peer.program
    process = await asyncio.create_subprocess_exec(
        str(peer.python), "-I", str(program), stdin=PIPE, stdout=PIPE, env={"PATH": os.environ["PATH"]}
    )
    try:
        await _said(process, _START_SECONDS)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
