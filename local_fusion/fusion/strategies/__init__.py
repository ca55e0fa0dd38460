"""One file for each way of fusing: a strategy asks panel and judges through its `Session` and returns the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from local_fusion.core.model import Choice
from local_fusion.fusion.session import Session
from local_fusion.fusion.strategies.best_of import best_of
from local_fusion.fusion.strategies.converge import converge
from local_fusion.fusion.strategies.council import council
from local_fusion.fusion.strategies.debate import debate
from local_fusion.fusion.strategies.evolve import evolve
from local_fusion.fusion.strategies.muse import muse
from local_fusion.fusion.strategies.refine import refine
from local_fusion.fusion.strategies.relay import relay
from local_fusion.fusion.strategies.review import review
from local_fusion.fusion.strategies.route import route
from local_fusion.fusion.strategies.single import single
from local_fusion.fusion.strategies.synthesize import synthesize
from local_fusion.fusion.strategies.vote import vote

# The final text is emitted as `TextDelta`s on the way and returned whole at the end.
Strategy = Callable[[Session], Awaitable[Choice]]

STRATEGIES: dict[str, Strategy] = {
    "single": single,
    "best_of": best_of,
    "vote": vote,
    "synthesize": synthesize,
    "council": council,
    "debate": debate,
    "converge": converge,
    "refine": refine,
    "muse": muse,
    "evolve": evolve,
    "relay": relay,
    "review": review,
    "route": route,
}
