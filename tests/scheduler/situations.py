"""Situations written down in one line for each engine: a device of 10 bytes, engines that take all of it."""

from __future__ import annotations

from collections.abc import Mapping

from local_fusion.core.chat import Priority
from local_fusion.planner.plan import Asleep
from local_fusion.scheduler.situation import (
    Action,
    Course,
    EngineView,
    Footprint,
    Load,
    Refuse,
    Situation,
    State,
    Swap,
    Victim,
)


def engine(
    name: str,
    state: State = "awake",
    *,
    awake: int = 10,
    sleeping: int = 0,
    devices: tuple[int, ...] = (0,),
    rest: Asleep = "level 1",
    resting: Asleep | None = None,
    running: int = 0,
    waiting: int = 0,
    since: float = 0.0,
    batch_running: int = 0,
    batch_waiting: int = 0,
    owed: int = 0,
    pinned: bool = False,
    drained_since: float | None = None,
    return_seconds: float = 5.0,
    recent: float = 0.0,
) -> EngineView:
    """An engine; calls are interactive unless they say batch, and the first of those waiting waits `since` then."""
    resting = resting or rest
    left = 0 if resting == "stopped" else sleeping
    return EngineView(
        name,
        state,
        Footprint(devices, awake, sleeping, rest=rest),
        holds={"down": left, "lost": 0}.get(state, awake),
        resting=resting,
        loads={
            "interactive": Load(running, waiting, since if waiting else None),
            "batch": Load(batch_running, batch_waiting, since if batch_waiting else None),
        },
        owed=owed,
        pinned=pinned,
        drained_since=drained_since,
        return_seconds=return_seconds,
        recent=recent,
    )


def situation(
    *engines: EngineView,
    usable: int | Mapping[int, int] = 10,
    now: float = 0.0,
    swaps: tuple[Swap, ...] = (),
    draining: tuple[str, ...] = (),
    occupied: tuple[str, ...] = (),
    courses: Mapping[Course, int] | None = None,
) -> Situation:
    """These engines at second `now`; `usable` bytes on each device that any of them is on."""
    devices = {device for each in engines for device in each.footprint.devices}
    return Situation(
        now,
        dict.fromkeys(devices, usable) if isinstance(usable, int) else usable,
        {each.name: each for each in engines},
        swaps,
        frozenset(draining),
        frozenset(occupied),
        courses or {},
    )


def course(outstanding: str, announced: str, priority: Priority = "interactive") -> Course:
    """Requests with calls to some engines outstanding and to some announced; names are words."""
    return Course(priority, frozenset(outstanding.split()), frozenset(announced.split()))


def swap(target: str, *victims: str, rest: Asleep = "level 1") -> Swap:
    """A swap, whatever its reason."""
    return Swap(target, tuple(Victim(victim, rest) for victim in victims))


def plainly(actions: tuple[Action, ...]) -> list[Action]:
    """What was decided, without the words for people."""
    return [
        Swap(each.target, each.victims)
        if isinstance(each, Swap)
        else Refuse(each.target, "")
        if isinstance(each, Refuse)
        else each
        for each in actions
    ]
