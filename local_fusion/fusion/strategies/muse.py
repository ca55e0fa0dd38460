"""`muse`: one member answers, streamed, and on a trigger another model's short note is put in its ear."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from local_fusion.config.strategies import MuseConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.sampling import Sampling
from local_fusion.errors import LocalFusionError, RequestError
from local_fusion.fusion.calls import consult
from local_fusion.fusion.prompts import muse as prompts
from local_fusion.fusion.prompts.layout import Messages, with_persona
from local_fusion.fusion.repetition import Repetition
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import held_to_format, speak, unless_cut

NOTE_TOKENS = 60
HELD_CHARACTERS = 2000  # at most held back while the answer may be repeating itself


async def muse(session: Session) -> Choice:
    """The member's answer. Where it begins to repeat itself it is broken off, cut back to before that (but never to
    before what has been sent), and gone on with, the muse's note in its ear.

    All pieces together take at most `max_tokens`, those cut off included. Where the muse fails the answer goes on
    without. What a `response_format` binds cannot be gone on with, so it is not watched.
    """
    config, request = session.config, session.request
    assert isinstance(config, MuseConfig)
    (member,) = config.panel
    messages = request.messages
    if member.persona is not None:
        messages = with_persona(messages, session.personas[member.persona])
    sampling = request.sampling.over(Sampling.of(member))
    voice = _Voice(session)
    ear = _Ear(session, config)
    if _due(session, config):
        await ear.whisper(messages, "")
    formatted = held_to_format(request)
    if formatted and config.trigger.repetition:
        session.note("an answer that is held to a format is not watched for repetition")
    session.emit(StageStarted("panel", (member.model,)))
    pieces = 0
    while True:
        piece = request.but(
            messages=prompts.aside(messages, ear.thoughts),
            sampling=sampling.shifted(pieces),
            response_format=request.response_format if formatted else None,
            prefix=voice.text,
        )
        if sampling.max_tokens is not None:
            piece = piece.but(sampling=piece.sampling.with_fields(max_tokens=sampling.max_tokens - voice.tokens))
        voice.listen(config.trigger.repetition and not formatted and ear.may_hear)
        try:
            choice = await _piece(session, member.model, piece, voice)
        except RequestError:
            if not pieces:
                raise
            session.note(f"{member.model} cannot go on with an answer that was broken off: it ends there")
            choice = Choice("", "length")
        pieces += 1
        if choice is not None:
            return voice.whole(choice, pieces)
        if sampling.max_tokens is not None and voice.tokens >= sampling.max_tokens:
            return voice.whole(Choice("", "length"), pieces)
        session.note(f"{member.model} repeated itself, and was broken off after {voice.tokens} tokens")
        await ear.whisper(messages, voice.text)


async def _piece(session: Session, name: str, request: ChatRequest, voice: _Voice) -> Choice | None:
    """How a piece of the answer ended; None where it was broken off because it repeats itself."""
    async with session.stage("panel", name, name, session.config.deadlines.panel):
        choice = await unless_cut(speak(session, "panel", name, request, voice.hear), voice.stuck)
    return None if voice.stuck.done() else choice  # it may have ended in the very moment in which it was cut


def _due(session: Session, config: MuseConfig) -> bool:
    """Whether a note comes before the answer."""
    trigger, messages = config.trigger, session.request.messages
    drawn = trigger.random is not None and session.rng.random() < trigger.random
    turns = sum(message.role == "user" for message in messages)
    by_count = trigger.every is not None and turns % trigger.every == 0 and messages[-1].role == "user"
    return drawn or by_count


class _Ear:
    """What the muse has whispered. An attempt that fails counts as a note, so that they come to an end."""

    def __init__(self, session: Session, config: MuseConfig) -> None:
        self.thoughts: list[str] = []
        self._session = session
        self._config = config
        self._attempts = 0

    @property
    def may_hear(self) -> bool:
        """Whether there may be one more note."""
        return self._attempts < self._config.max_notes

    async def whisper(self, messages: Messages, so_far: str) -> None:
        """Ask the muse for a note on the conversation and the answer so far."""
        session, whom = self._session, self._config.muse
        sampling = Sampling.of(whom).over(Sampling(max_tokens=NOTE_TOKENS, seed=session.request.sampling.seed))
        sampling = sampling.shifted(self._attempts)
        self._attempts += 1
        session.emit(StageStarted("panel", (whom.model,)))
        asked = session.asks(prompts.thought(messages, so_far), sampling)
        try:
            told = await consult(session, "panel", whom, asked, label=f"{whom.model} (muse)")
        except LocalFusionError:
            session.note("the muse failed: the answer goes on without its note")
            return
        self.thoughts.append(told.text.strip())
        session.note(f"{whom.model} noted: {self.thoughts[-1]}")


class _Voice:
    """The answer as it is written: said at once, but for its end where that may be the beginning of a repetition.

    `text`: what stands of it, said or not. `tokens`: written for it, cut off or not. `stuck` is done once it repeats
    itself.
    """

    def __init__(self, session: Session) -> None:
        self.text = ""
        self.tokens = 0
        self.stuck: asyncio.Future[None]
        self._session = session
        self._reasoning = ""
        self._said = 0
        self._watch: Repetition | None = None

    def listen(self, watched: bool) -> None:
        """One more piece begins."""
        self.stuck = asyncio.get_running_loop().create_future()
        self._watch = Repetition() if watched else None
        if self._watch is not None:
            self._watch.feed(self.text)

    def hear(self, delta: TextDelta) -> None:
        """More has been written."""
        self.tokens += delta.tokens
        self._reasoning += delta.reasoning
        if self.stuck.done():  # written before the call could be ended
            self._say(delta, self._said)
            return
        self.text += delta.text
        if self._watch is None:
            self._say(delta, len(self.text))
            return
        began = self._watch.feed(delta.text)
        if began is not None:
            self.text = self.text[: max(began, self._said)]
            self.stuck.set_result(None)
        safe = self._watch.safe if began is None else len(self.text)
        self._say(delta, max(safe, len(self.text) - HELD_CHARACTERS))

    def whole(self, choice: Choice, pieces: int) -> Choice:
        """The answer, whose last piece is `choice`; what was held back is said."""
        if self._said < len(self.text):
            self._say(TextDelta(""), len(self.text))
        certainty = choice.certainty if pieces == 1 else None
        return replace(choice, text=self.text, reasoning=self._reasoning, certainty=certainty)

    def _say(self, delta: TextDelta, safe: int) -> None:
        more = self.text[self._said : safe]
        self._said += len(more)
        self._session.say(replace(delta, text=more))
