"""A process that speaks vLLM's HTTP dialect (`tests/vllm_dialect.py`) over a Unix socket, and misbehaves by script.

Run as `python fake_engine.py --uds SOCKET --served-model-name NAME [--max-model-len N] [--enable-sleep-mode]
[--tool-call-parser NAME] [--reasoning-parser NAME]` with the script as JSON in `FAKE_ENGINE`.
What it holds is booked in the ledger `FAKE_LEDGER`, if there is one (`tests/ledger.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the program itself lies outside of its package
from tests.vllm_dialect import (
    Written,
    chunk_of,
    event,
    flattened,
    matching,
    prompt_logprobs,
    rendered,
    token_id,
    token_logprobs,
    tools_refused,
    usage,
    words,
)

if __name__ != "__main__":  # the program itself imports it later, so that crashing at the start is quick
    from local_fusion.engines.command import EngineCommand
    from local_fusion.engines.host import EngineHost, EngineProcess
    from tests.ledger import Ledger


@dataclass
class Script:
    """What a fake engine does; by default it is well and echoes the last message."""

    # Pairs of a regular expression, searched in the last message, and the reply: a text, or texts for samples 0, 1, …
    rules: list[tuple[str, str | list[str]]] = field(default_factory=list)
    # As `rules`, with what is thought before the reply; as part of the text where no parser tells the two apart.
    thoughts: list[tuple[str, str]] = field(default_factory=list)
    # As `rules`, with the tools called (`name`, `arguments`) in place of a reply, where the request has tools.
    calls: list[tuple[str, list[dict[str, Any]]]] = field(default_factory=list)
    # Of words, wherever they stand: in a prompt or an answer.
    logprobs: dict[str, float] = field(default_factory=dict)
    # As `rules`, with the probabilities of labels for `logprob_token_ids`; labels not named share a tiny rest.
    weights: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    # The reply is the engine's name and all marks, «like this», in the conversation: nothing else must turn up there.
    signed: bool = False
    # The reply to any request with a `response_format`, before `rules`.
    json_reply: dict[str, Any] | None = None
    record: str | None = None  # file that gets a JSON line for each request, its end, or its client's disappearance
    crash_log: str | None = None  # written at the start, then exit with `crash_code`
    crash_code: int = 1
    sick_polls: int = 0  # /health answers 503 so often before it answers 200
    never_healthy: bool = False
    ignore_sigterm: bool = False
    grandchild: str | None = None  # file that gets the pid of a child in a session of its own that ignores SIGTERM
    hang: bool = False  # accept requests (not /health) and never answer
    hold_after_tokens: int | None = None  # say so many tokens, then nothing more, keeping the stream open
    die_after_tokens: int | None = None  # exit in the middle of the answer
    cut_after_tokens: int | None = None  # close the stream without [DONE]
    error_after_tokens: int | None = None  # an error object in the middle of the stream
    reject: list[Any] | None = None  # [status, message] for chat completions
    reject_warm_up: list[Any] | None = None  # [status, message] for text completions, the first of which is the warm-up
    token_seconds: float = 0.0
    metrics: str = ""  # what /metrics shows beside the number of running requests and of steps
    steps_while_silent: bool = False  # its core takes a step between any two looks, as in a very long prompt
    half_close_after_tokens: int | None = None  # shut down the sending half of the connection, and hold the other
    sleep_seconds: float = 0.0
    wake_seconds: float = 0.0  # for each of weights and KV cache
    reload_seconds: float = 0.0  # reading the weights again after level 2
    # "error": status 500; "hang"; "insomnia": says yes and stays awake; "hold": keeps its memory
    fail_sleep: str | None = None
    fail_wake: str | None = None  # "error": out of memory, says vLLM, and lives on; "exit": and ends; "hang"
    die_asleep: bool = False  # exit as soon as the answer to /sleep is sent
    awake_bytes: int = 0  # booked for each of `devices`, or of CUDA_VISIBLE_DEVICES
    sleeping_bytes: int = 0
    devices: list[int] | None = None

    def dumps(self) -> str:
        return json.dumps(asdict(self))


class FakeEngine:
    def __init__(self, options: argparse.Namespace, script: Script) -> None:
        self.name: str = options.served_model_name
        self.script = script
        self.limit: int = options.max_model_len
        self.tool_call_parser: str | None = options.tool_call_parser
        self.reasoning_parser: str | None = options.reasoning_parser
        self.polls = 0
        self.steps = 0
        self.vocabulary: dict[int, str] = {}
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.going = asyncio.Event()  # cleared while the scheduler is paused: new requests wait
        self.going.set()
        self.aborting = asyncio.Event()
        self.sleeping: set[str] = set()
        self.weights_are_there = True

    def record(self, **entry: Any) -> None:
        if self.script.record:
            with open(self.script.record, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def serve(self, path: str) -> None:
        from aiohttp import web

        @web.middleware
        async def checked(request: Any, handler: Any) -> Any:
            """vLLM checks every field before it looks at any; here, what cannot be read is malformed."""
            try:
                return await handler(request)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                if request.get("begun"):
                    raise
                return self.error(400, f"{type(error).__name__}: {error}")

        app = web.Application(client_max_size=64 * 1024**2, middlewares=[checked])
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/embeddings", self.embeddings)
        if os.environ.get("VLLM_SERVER_DEV_MODE") == "1":
            app.router.add_post("/sleep", self.sleep)
            app.router.add_post("/wake_up", self.wake_up)
            app.router.add_get("/is_sleeping", self.is_sleeping)
            app.router.add_post("/collective_rpc", self.collective_rpc)
            app.router.add_post("/reset_prefix_cache", self.reset_prefix_cache)
        self.book(self.script.awake_bytes)
        web.run_app(
            app,
            path=path,
            print=None,
            handle_signals=not self.script.ignore_sigterm,
            handler_cancellation=True,
            shutdown_timeout=0.1,
        )

    async def health(self, request: Any) -> Any:
        from aiohttp import web

        self.polls += 1
        well = self.polls > self.script.sick_polls and not self.script.never_healthy
        return web.Response(status=200 if well else 503)

    def book(self, size: int) -> None:
        """Hold so many bytes of each device; too many are the end."""
        if path := os.environ.get("FAKE_LEDGER"):
            from tests.ledger import Ledger

            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
            devices = self.script.devices or [int(device) for device in visible.split(",")]
            Ledger(Path(path)).book(dict.fromkeys(devices, size), name=self.name)

    async def sleep(self, request: Any) -> Any:
        from aiohttp import web

        level, mode = int(request.query.get("level", "1")), request.query.get("mode", "abort")
        self.record(event="control", path=request.path_qs)
        self.going.clear()
        if mode == "abort":
            self.aborting.set()
        await self.idle.wait()
        self.aborting.clear()
        if self.script.fail_sleep == "error":
            return web.Response(status=500, text="Internal Server Error")
        if self.script.fail_sleep == "hang":
            await asyncio.Event().wait()
        if self.script.fail_sleep == "insomnia":
            self.going.set()
        else:
            await asyncio.sleep(self.script.sleep_seconds)
            self.sleeping = {"weights", "kv_cache"}
            self.weights_are_there = level == 1
            if self.script.fail_sleep != "hold":
                self.book(self.script.sleeping_bytes)
        if self.script.die_asleep:
            asyncio.get_running_loop().call_later(0.1, os._exit, 9)
        return web.json_response({"status": "sleeping", "level": level})

    async def wake_up(self, request: Any) -> Any:
        from aiohttp import web

        tags = request.query.getall("tags", []) or ["weights", "kv_cache"]
        self.record(event="control", path=request.path_qs)
        if self.script.fail_wake == "hang":
            await asyncio.Event().wait()
        if self.script.fail_wake in ("error", "exit"):
            print("RuntimeError: CUDA Error: out of memory at csrc/cumem_allocator.cpp:139", file=sys.stderr)
            if self.script.fail_wake == "exit":
                os._exit(1)
            return web.Response(status=500, text="Internal Server Error")
        self.book(self.script.awake_bytes)
        await asyncio.sleep(self.script.wake_seconds)
        self.sleeping -= set(tags)
        if not self.sleeping:
            self.going.set()
        return web.json_response({"status": "sleeping" if self.sleeping else "awake", "tags": tags})

    async def is_sleeping(self, request: Any) -> Any:
        from aiohttp import web

        return web.json_response({"is_sleeping": bool(self.sleeping) or not self.going.is_set()})

    async def collective_rpc(self, request: Any) -> Any:
        from aiohttp import web

        method = (await request.json())["method"]
        self.record(event="control", path=f"{request.path}: {method}")
        if method != "reload_weights" or "weights" in self.sleeping:
            return web.Response(status=500, text="Internal Server Error")
        await asyncio.sleep(self.script.reload_seconds)
        self.weights_are_there = True
        return web.json_response({"results": [None]})

    async def reset_prefix_cache(self, request: Any) -> Any:
        from aiohttp import web

        self.record(event="control", path=request.path)
        return web.json_response({"success": not self.running})  # as vLLM, which keeps what running calls use

    async def models(self, request: Any) -> Any:
        from aiohttp import web

        model = {"id": self.name, "object": "model", "owned_by": "vllm", "max_model_len": self.limit}
        return web.json_response({"object": "list", "data": [model]})

    async def metrics(self, request: Any) -> Any:
        from aiohttp import web

        if self.script.hang:
            await asyncio.Event().wait()
        self.steps += self.script.steps_while_silent
        labels = f'{{engine="0",model_name="{self.name}"}}'
        counted = f"vllm:iteration_tokens_total_count{labels} {self.steps}.0\n"
        return web.Response(text=f'vllm:num_requests_running{{engine="0"}} 0.0\n{counted}{self.script.metrics}')

    async def tokenize(self, request: Any) -> Any:
        from aiohttp import web

        body = await request.json()
        text = words(body["prompt"]) if "prompt" in body else rendered(flattened(body))
        self.vocabulary |= {token_id(word): word.strip() for word in text}
        tokens = [token_id(word) for word in text]
        return web.json_response({"count": len(tokens), "max_model_len": self.limit, "tokens": tokens})

    async def embeddings(self, request: Any) -> Any:
        from aiohttp import web

        body = await request.json()
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [{"object": "embedding", "index": index, "embedding": [0.0, 1.0]} for index in range(len(texts))]
        counts = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
        return web.json_response({"object": "list", "model": self.name, "data": data, "usage": counts})

    async def completions(self, request: Any) -> Any:
        from aiohttp import web

        await self.going.wait()
        if self.script.reject_warm_up:
            return self.error(*self.script.reject_warm_up)
        body = await request.json()
        if body.get("prompt_logprobs") is not None:
            return self.scored(body)
        choice = {"index": 0, "text": " world", "finish_reason": "length", "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return web.json_response({"object": "text_completion", "choices": [choice], "usage": usage})

    def scored(self, body: dict[str, Any]) -> Any:
        """One choice for each prompt of token ids, in no particular order, with the prompt's log-probabilities."""
        from aiohttp import web

        self.record(event="request", path="/v1/completions", body=body)
        longest = max(len(ids) for ids in body["prompt"])
        if too_long := self.too_long(longest, body["max_tokens"]):
            return too_long
        known = {token_id(word): logprob for word, logprob in self.script.logprobs.items()}
        choices = [
            {"index": index, "text": " x", "finish_reason": "length", "prompt_logprobs": prompt_logprobs(ids, known)}
            for index, ids in enumerate(body["prompt"])
        ]
        counts = usage(sum(map(len, body["prompt"])), len(choices))
        return web.json_response({"object": "text_completion", "choices": choices[::-1], "usage": counts})

    def error(self, status: int, message: str, param: str | None = None) -> Any:
        from aiohttp import web

        error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
        return web.json_response({"error": error}, status=status)

    async def chat(self, request: Any) -> Any:
        from aiohttp import web

        body = await request.json()
        self.record(event="request", path=request.path, body=body)
        if isinstance(body.get("messages"), list):
            body = flattened(body)
        await self.going.wait()  # as vLLM's scheduler, which queues what comes while it is paused
        self.running += 1
        self.idle.clear()
        try:
            if self.script.hang:
                await asyncio.Event().wait()
            if body.get("model") != self.name:
                return self.error(404, f"The model `{body.get('model')}` does not exist.", "model")
            if self.script.reject:
                return self.error(*self.script.reject)
            if refusal := tools_refused(body, self.tool_call_parser):
                return self.error(400, refusal)
            prompt_tokens = len(rendered(body))
            if too_long := self.too_long(prompt_tokens, body.get("max_tokens") or 1):
                return too_long
            if body.get("stream"):
                return await self.stream(request, body, prompt_tokens)
            answers = [self.answer(body, index) for index in range(body.get("n") or 1)]
            choices: list[dict[str, Any]] = [
                {"index": index, "message": answer.message, "finish_reason": answer.reason}
                for index, answer in enumerate(answers)
            ]
            if body.get("logprob_token_ids"):
                choices[0]["logprobs"] = self.logprobs(body)
            elif body.get("logprobs"):
                known, top = self.script.logprobs, body.get("top_logprobs") or 0
                for choice, answer in zip(choices, answers, strict=True):
                    choice["logprobs"] = {"content": [token_logprobs(word, known, top) for word in answer.text]}
            written = sum(len(answer.deltas) for answer in answers)
            self.record(event="answered")
            head = {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": self.name}
            return web.json_response({**head, "choices": choices, "usage": usage(prompt_tokens, written)})
        except (asyncio.CancelledError, ConnectionResetError):
            self.record(event="disconnected")
            raise
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    def too_long(self, prompt_tokens: int, wanted: int) -> Any:
        """The refusal of a prompt that leaves no room; None where it fits."""
        if prompt_tokens + wanted <= self.limit:
            return None
        message = (
            f"This model's maximum context length is {self.limit} tokens. However, you requested {wanted} "
            f"output tokens and your prompt contains {prompt_tokens} input tokens."
        )
        return self.error(400, message, "input_tokens")

    def answer(self, body: dict[str, Any], index: int) -> Written:
        """What sample `index` says."""
        begun = body.get("continue_final_message")
        last = body["messages"][-2 if begun else -1]["content"] or ""
        thoughts = words(next(matching(self.script.thoughts, last), ""))
        if body.get("tools") and body.get("tool_choice") != "none":
            for calls in matching(self.script.calls, last):
                return Written(thoughts, [], "tool_calls", calls)
        reply: str | list[str] = f"echo: {last}"
        if self.script.json_reply is not None and body.get("response_format"):
            reply = json.dumps(self.script.json_reply)
        elif self.script.signed:
            marks = re.findall("«[^»]*»", " ".join(message["content"] or "" for message in body["messages"]))
            reply = " ".join([self.name, *sorted(set(marks))])
        else:
            reply = next(matching(self.script.rules, last), reply)
        text = reply if isinstance(reply, str) else reply[index % len(reply)]
        if begun:
            text = text.removeprefix(body["messages"][-1]["content"])
        if not self.weights_are_there:
            text = " ".join("garbage" for _ in words(text))
        stops = body.get("stop") or []
        at, stop = min(
            ((text.find(each), each) for each in ([stops] if isinstance(stops, str) else stops) if each in text),
            default=(len(text), None),
        )
        return self.limited(thoughts, words(text[:at]), body.get("max_tokens"), stop)

    def limited(self, thoughts: list[str], text: list[str], limit: int | None, stop: str | None) -> Written:
        """An answer of at most so many tokens; thoughts are part of the text where nothing tells them apart."""
        said = [*thoughts, *text][:limit]
        whole = len(said) == len(thoughts) + len(text)
        apart = len(thoughts) if self.reasoning_parser else 0
        return Written(said[:apart], said[apart:], "stop" if whole else "length", stopped_by=stop if whole else None)

    def logprobs(self, body: dict[str, Any]) -> dict[str, Any]:
        last = body["messages"][-1]["content"]
        weights: dict[str, float] = next(matching(self.script.weights, last), {})
        top = [{"token": "token_id:7", "logprob": -0.1}]  # vLLM puts the sampled token first
        for token in body["logprob_token_ids"]:
            weight = weights.get(self.vocabulary.get(token, ""), 1e-6)
            top.append({"token": f"token_id:{token}", "logprob": math.log(weight) - 2.0})
        return {"content": [{"token": "token_id:7", "logprob": -0.1, "top_logprobs": top}]}

    async def stream(self, request: Any, body: dict[str, Any], prompt_tokens: int) -> Any:
        from aiohttp import web

        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        request["begun"] = True
        options = body.get("stream_options") or {}
        said = 0
        head = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": self.name}
        async for chunk in self.chunks(body, prompt_tokens):
            written = chunk.pop("written")
            if not options.get("continuous_usage_stats"):
                chunk.pop("usage")
            await response.write(event({**head, **chunk}))
            said += written
            self.steps += written
            if self.aborting.is_set():
                break
            if said == self.script.half_close_after_tokens:
                self.record(event="half closed")  # before, because a test that sees the one looks for the other
                request.transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
                await asyncio.Event().wait()
            if said == self.script.die_after_tokens:
                os._exit(70)
            if said == self.script.cut_after_tokens:
                request.transport.close()
                return response
            if said == self.script.error_after_tokens:
                error = {"message": "the engine is unwell", "type": "InternalServerError", "code": 500}
                await response.write(event({"error": error}) + b"data: [DONE]\n\n")
                return response
            if said == self.script.hold_after_tokens:
                self.record(event="holding")
                await self.aborting.wait()
                break
        if self.aborting.is_set():
            for index in range(body.get("n") or 1):
                choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": "abort"}
                await response.write(event({"choices": [choice], "usage": usage(prompt_tokens, said)}))
        if options.get("include_usage"):
            await response.write(event({**head, "choices": [], "usage": usage(prompt_tokens, said)}))
        await response.write(b"data: [DONE]\n\n")
        self.record(event="answered")
        return response

    async def chunks(self, body: dict[str, Any], prompt_tokens: int) -> AsyncIterator[dict[str, Any]]:
        """The samples' tokens in turns, as one batch would bring them."""
        answers = [self.answer(body, index) for index in range(body.get("n") or 1)]
        for index in range(len(answers)):
            delta = {"role": "assistant", "content": ""}
            yield chunk_of(index, delta, None, usage(prompt_tokens, 0), 0)
        said = [answer.deltas for answer in answers]
        for position in range(max(map(len, said))):
            if self.script.token_seconds:
                await asyncio.sleep(self.script.token_seconds)
            for index, deltas in enumerate(said):
                if position < len(deltas):
                    word, delta = deltas[position]
                    last = position == len(deltas) - 1
                    ends, stop = (answers[index].reason, answers[index].stopped_by) if last else (None, None)
                    top = body.get("top_logprobs", 0)
                    told = token_logprobs(word, self.script.logprobs, top) if body.get("logprobs") else None
                    yield chunk_of(index, delta, ends, usage(prompt_tokens, position + 1), 1, told, stop)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--tool-call-parser")
    parser.add_argument("--reasoning-parser")
    options, _ = parser.parse_known_args()
    script = Script(**json.loads(os.environ.get("FAKE_ENGINE", "{}")))
    if script.crash_log is not None:
        sys.stderr.write(script.crash_log + "\n")
        sys.stderr.flush()
        os._exit(script.crash_code)
    if script.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if script.grandchild is not None:
        stubborn = (
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(999)"
        )
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", stubborn], start_new_session=True, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.read(1)
        Path(script.grandchild).write_text(str(child.pid), encoding="utf-8")
    FakeEngine(options, script).serve(options.uds)


class FakeHost:
    """An `EngineHost` that runs the fake engine wherever vLLM is asked for.

    `scripts` gives each engine's script, or a list of them: one for each start, the last for all further ones.
    Engines book what they hold in `ledger`.
    """

    def __init__(
        self, host: EngineHost, scripts: dict[str, Script | list[Script]] | None = None, ledger: Ledger | None = None
    ) -> None:
        self._host = host
        self.ledger = ledger
        self.python = sys.executable
        self.scripts = scripts or {}
        self.starts: dict[str, int] = {}
        self.pids: dict[str, list[int]] = {}
        self.commands: dict[str, list[EngineCommand]] = {}

    async def start(self, command: EngineCommand, *, name: str, log: Path) -> EngineProcess:
        turn = self.starts.get(name, 0)
        self.starts[name] = turn + 1
        scripts = self.scripts.get(name, Script())
        script = scripts if isinstance(scripts, Script) else scripts[min(turn, len(scripts) - 1)]
        argv = (self.python, __file__, *vllm_options(command.argv))
        env = {**command.env, "FAKE_ENGINE": script.dumps()}
        if self.ledger is not None:
            env["FAKE_LEDGER"] = str(self.ledger.path)
        process = await self._host.start(EngineCommand(argv, env), name=name, log=log)
        self.pids.setdefault(name, []).append(process.pid)
        self.commands.setdefault(name, []).append(command)
        return process


def vllm_options(argv: tuple[str, ...]) -> Iterator[str]:
    """What comes after `python -m MODULE`."""
    assert argv[1] == "-m", argv
    return iter(argv[3:])


if __name__ == "__main__":
    main()
