"""`relay`: members draft the next segment, all score each draft, the best is appended. EXPERIMENTAL.

For members of like strength that do not think first, on engines that are awake at the same time. Fusing whole segments
by likelihood is the form of ensembling below the answer (compare GaC, arXiv 2406.12585) that engines over HTTP allow:
their logits are out of reach. It costs every member a draft and a scoring pass for each segment, and scoring cannot
read an engine's prefix cache (vLLM computes anew what it tells the log-probabilities of): a long conversation is read
again for each segment.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from local_fusion.config.strategies import RelayConfig
from local_fusion.core.chat import ChatRequest
from local_fusion.core.concurrency import together
from local_fusion.core.events import StageStarted, TextDelta
from local_fusion.core.model import Choice
from local_fusion.core.records import Candidate
from local_fusion.errors import ContextTooLong, LocalFusionError, RequestError
from local_fusion.fusion.panel.polling import number_of, require_quorum
from local_fusion.fusion.panel.seats import Seat, sampling_of, seats_of, stops_of
from local_fusion.fusion.panel.waiting import Gathering
from local_fusion.fusion.prompts.layout import with_persona
from local_fusion.fusion.segments import Draft, Scale, stop_in, to_last_word, unsure_end
from local_fusion.fusion.session import Session
from local_fusion.fusion.speaking import held_to_format, speak, unless_cut
from local_fusion.fusion.thinking import empty_answer


async def relay(session: Session) -> Choice:
    """The answer, grown segment by segment and streamed as it grows.

    A model has no say about its own drafts, and each model's scores count by its own scale (see `segments.Scale`);
    on a tie the first in panel order wins. A draft that ends the answer ends it if it wins; drafts that would add
    nothing more end it if they are at least half. Who fails is left out from then on, and the last one left goes on
    alone. Where the contexts are full it ends as if by its limit, up to one segment early.
    Raises `RequestError` for tools and for a response format, `PanelFailed` where fewer than the quorum begin, and the
    last member's error where it fails in the middle.
    """
    request = session.request
    if held_to_format(request):
        raise RequestError(
            "an answer that is relayed cannot be held to a format: no engine knows what it was begun with",
            param="response_format",
            hint="use another strategy, such as best_of, where a format is needed",
        )
    if request.tools and request.tool_choice != "none":
        raise RequestError(
            "an answer that is relayed cannot call tools",
            param="tools",
            hint="use another strategy, such as vote; or cadence final, with which one model alone calls them",
        )
    return await _Relay(session).run()


class _Relay:
    """One answer on its way. `text`: what stands of it; all but an end that may become a stop has been said."""

    def __init__(self, session: Session) -> None:
        config = session.config
        assert isinstance(config, RelayConfig)
        self._session = session
        self._config = config
        self._seats = seats_of(config.panel)
        self._limit = session.request.sampling.max_tokens or config.max_tokens
        self._text = ""
        self._said = 0
        self._used = 0
        drawn = [sampling_of(seat, session.request.sampling, verbatim=True) for seat in self._seats]
        self._stops = [stop for sampling in drawn for stop in stops_of(sampling)]
        self._error: LocalFusionError | None = None  # the last one
        self._scales: dict[str, Scale] = {}
        self._wins: Counter[str] = Counter()

    @property
    def _left(self) -> int:
        return self._limit - self._used

    async def run(self) -> Choice:
        """Draft, score and append until the answer ends."""
        number = 0
        while len(self._seats) > 1:
            number += 1
            drafts = await self._draft_all(number)
            if not drafts:
                return self._end("length")  # every context is full
            over = [draft for draft in drafts if draft.empty]
            if 2 * len(over) >= len(drafts):
                self._append(over[0])
                return self._end("stop")
            best = await self._best([draft for draft in drafts if not draft.empty])
            self._append(best)
            self._wins[best.member] += 1
            if best.ended:
                return self._end("stop")
            if self._left <= 0:
                return self._end("length")
        if not self._seats:
            assert self._error is not None
            raise self._error
        return await self._alone(self._seats[0], number)

    async def _draft_all(self, number: int) -> list[Draft]:
        """The drafts of segment `number`, in panel order. Empty only where all that are left have no more room."""
        session, seats = self._session, self._seats
        session.emit(StageStarted("panel", tuple(dict.fromkeys(seat.member.model for seat in seats)), number))
        drafts: dict[str, Draft] = {}
        gathering = Gathering(session, None, len(seats))
        outcomes = await gathering.run([self._draft(seat, number, drafts, gathering.take) for seat in seats])
        session.candidates += sorted(gathering.candidates, key=number_of)
        errors = [outcome for outcome in outcomes if outcome is not None]
        self._drop([seat.label for seat, outcome in zip(seats, outcomes, strict=True) if outcome is not None])
        if number == 1:
            require_quorum(session, gathering.candidates, errors)
        elif not self._seats and not all(isinstance(error, ContextTooLong) for error in errors):
            raise next(error for error in errors if not isinstance(error, ContextTooLong))  # what stands has been sent
        return [drafts[seat.label] for seat in seats if seat.label in drafts]

    async def _draft(
        self, seat: Seat, number: int, drafts: dict[str, Draft], take: Callable[[Candidate | None], None]
    ) -> LocalFusionError | None:
        """Put what `seat` would go on with into `drafts`; its error where it fails."""
        session, member, began = self._session, seat.member, self._session.now()
        name = member.model
        most = min(self._config.segment_tokens, self._left)
        request = self._request(seat, number, most)
        ends = [(0, 0)]  # characters and tokens, after each piece

        def on_text(delta: TextDelta) -> None:
            characters, tokens = ends[-1]
            ends.append((characters + len(delta.text), tokens + delta.tokens))

        try:
            async with session.stage("panel", seat.label, name, session.config.deadlines.panel):
                reply = await session.resolve(name).answer(request, session.relay("panel", seat.label, on_text))
                choice = reply.choices[0]
                ended = choice.finish_reason != "length"
                if not choice.text.strip() and not (ended and self._text):
                    raise empty_answer(seat.label, name, choice)
        except LocalFusionError as error:
            take(None)
            return error
        text = choice.text if ended or most == self._left else to_last_word(choice.text)
        tokens = next((tokens for characters, tokens in ends if characters >= len(text)), ends[-1][1])
        whole = self._text + (text if self._text else text.lstrip())
        stop = stop_in(whole, stops_of(request.sampling), len(self._text))
        if stop is not None:
            whole, ended = whole[:stop], True
        drafts[seat.label] = Draft(seat.label, name, whole, whole[len(self._text) :], tokens, ended)
        seconds = session.now() - began
        id_ = f"c{seat.first}.{number}"
        take(Candidate(id_, seat.label, name, text, choice.finish_reason, seconds, member.persona, number))
        return None

    def _request(self, seat: Seat, number: int, most: int) -> ChatRequest:
        """The next segment, or the rest, in at most `most` tokens."""
        session, member = self._session, seat.member
        request = session.request
        messages = request.messages
        if member.persona is not None:
            messages = with_persona(messages, session.personas[member.persona])
        sampling = sampling_of(seat, request.sampling, verbatim=True).with_fields(max_tokens=most)
        effort = request.reasoning_effort
        drawn = sampling.shifted(number - 1)
        return session.asks(messages, drawn, prefix=self._text, reasoning_effort=effort, described=request.described)

    async def _best(self, drafts: Sequence[Draft]) -> Draft:
        """The draft that the others find likeliest."""
        texts = list(dict.fromkeys(draft.added for draft in drafts))
        if len(texts) == 1:
            return drafts[0]
        authors = {text: {draft.model for draft in drafts if draft.added == text} for text in texts}
        models = list(dict.fromkeys(seat.member.model for seat in self._seats))
        # Where one model wrote everything, everything is its own, and none of it is preferred for that.
        theirs = {model: [text for text in texts if model not in authors[text]] or texts for model in models}
        scored = await together(self._score(model, tuple(theirs[model])) for model in models)
        places: dict[str, list[float]] = {text: [] for text in texts}
        for model, scores in zip(models, scored, strict=True):
            scale = self._scales.setdefault(model, Scale())
            for score in scores:
                scale.add(score)
            for text, score in zip(theirs[model], scores, strict=False):  # none where it failed
                places[text].append(scale.place(score))
        means = {text: sum(each) / len(each) if each else 0.0 for text, each in places.items()}
        return max(drafts, key=lambda draft: means[draft.added])

    async def _score(self, model: str, texts: tuple[str, ...]) -> list[float]:
        """Mean log-probability of a token of each of `texts` to `model`; nothing where it fails."""
        session = self._session
        described = session.request.described
        request = session.asks(session.request.messages, prefix=self._text, described=described)
        try:
            async with session.stage("panel", model, model, session.config.deadlines.panel):
                scores = await session.resolve(model).score(
                    request, texts, session.relay("panel", model, lambda _: None)
                )
        except LocalFusionError as error:
            self._error = error
            self._drop([seat.label for seat in self._seats if seat.member.model == model])
            return []
        return [score.mean for score in scores]

    def _drop(self, labels: Sequence[str]) -> None:
        self._seats = [seat for seat in self._seats if seat.label not in labels]
        for label in labels:
            self._session.note(f"{label} failed, and has no part in the rest of the answer")

    async def _alone(self, seat: Seat, number: int) -> Choice:
        """The rest, from segment `number` on, streamed by the one member that is left."""
        session, name, begun = self._session, seat.member.model, len(self._text)
        request = self._request(seat, number, self._left)
        stops = stops_of(request.sampling)
        stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_text(delta: TextDelta) -> None:
            if stopped.done():
                return
            self._text += delta.text
            if (stop := stop_in(self._text, stops, begun)) is not None:
                self._text = self._text[:stop]
                stopped.set_result(None)
            self._say(delta.tokens)

        try:
            async with session.stage("panel", seat.label, name, session.config.deadlines.panel):
                room = (await session.resolve(name).measure(request)).left
                if not room:
                    return self._end("length")
                request = request.but(sampling=request.sampling.capped(room))
                choice = await unless_cut(speak(session, "panel", name, request, on_text), stopped)
        except ContextTooLong:
            return self._end("length")
        return self._end("stop" if choice is None or stopped.done() else choice.finish_reason)

    def _append(self, draft: Draft) -> None:
        self._text = draft.whole
        self._used += draft.tokens
        self._say(draft.tokens)

    def _say(self, tokens: int) -> None:
        """Send what is new but for an end that may become a stop; the tokens were written for it."""
        until = len(self._text) - unsure_end(self._text, self._stops)
        self._send(until, tokens)

    def _send(self, until: int, tokens: int = 0) -> None:
        more = self._text[self._said : until]
        self._said += len(more)
        self._session.say(TextDelta(more, tokens=tokens))

    def _end(self, reason: str) -> Choice:
        """The whole answer; how it came about is told."""
        if self._said < len(self._text):
            self._send(len(self._text))
        shares = ", ".join(f"{count} by {member}" for member, count in self._wins.most_common())
        self._session.note(f"relay (experimental): {self._wins.total()} segments were relayed, {shares or 'by nobody'}")
        return Choice(self._text, reason)
