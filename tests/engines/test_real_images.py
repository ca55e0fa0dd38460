"""Images on real vLLM, with a tiny model that takes them: sent, counted as they are read, fused with a blind one."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local_fusion.config.schema import EngineSettings, ModelConfig
from local_fusion.core.chat import ChatRequest, Image, Message
from local_fusion.core.metered import Metered
from local_fusion.core.model import ChatModel
from local_fusion.core.sampling import Sampling
from local_fusion.engines.checkpoints.facts import read_facts
from local_fusion.engines.command import engine_command
from local_fusion.engines.engine import Engine
from local_fusion.engines.host import LocalHost
from local_fusion.engines.model import EngineModel
from local_fusion.engines.runtime_folder import RuntimeFolder
from tests.conftest import placement
from tests.engines.seeing import IMAGE_TOKENS, SIDE
from tests.scripted import Scripted, fusion

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def png(red: int, green: int, blue: int) -> Image:
    """A picture of one colour, as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((red, green, blue)) * SIDE
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    picture = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * SIDE)) + chunk(b"IEND", b"")
    )
    return Image("data:image/png;base64," + base64.b64encode(picture).decode())


def asking(*parts: str | Image) -> ChatRequest:
    text = "\n".join(part for part in parts if isinstance(part, str))
    message = Message("user", text, parts=parts if any(isinstance(part, Image) for part in parts) else ())
    return ChatRequest(messages=(message,), sampling=Sampling(max_tokens=16, temperature=0), request_id="r1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeing")
    command = [sys.executable, "-m", "tests.engines.seeing", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=200, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return folder


@pytest.fixture
async def seeing(checkpoint: Path) -> AsyncIterator[EngineModel]:
    """The model on a running engine, told apart from blind ones by the checkpoint alone."""
    model = ModelConfig(source=str(checkpoint), max_num_seqs=4)
    folder = RuntimeFolder.open()
    socket = folder.socket("eyes")
    placed = placement("eyes", checkpoint=checkpoint, kv_cache_bytes=2**26, max_model_len=1024)
    command = engine_command(placed, model, socket=socket, python=sys.executable, environ=os.environ)
    settings = EngineSettings(start_seconds=500)
    log = folder.log("eyes")
    engine = Engine("eyes", command, socket=socket, log=log, host=LocalHost(folder), settings=settings)
    try:
        engine.start()
        await engine.ensure_awake()
        yield EngineModel(engine, takes_images=read_facts(checkpoint, model).takes_images)
    finally:
        await engine.stop()
        folder.close()


async def test_images_reach_the_model_and_are_counted_and_fusions_hand_them_on(seeing: EngineModel) -> None:
    assert seeing.takes_images
    question = "What colour is this?"
    red, blue = asking(question, png(255, 0, 0)), asking(question, png(0, 0, 255))
    # Measuring before is reading after, with the image in both.
    room, without = await seeing.measure(red), await seeing.measure(asking(question))
    assert room.tokens >= without.tokens + IMAGE_TOKENS
    answers = [await seeing.answer(request) for request in (red, blue, asking(question))]
    assert answers[0].usage.prompt_tokens == room.tokens
    texts = [reply.choices[0].text for reply in answers]
    assert len(set(texts)) == 3, "random as its weights are, it does not answer two pictures alike"

    blind, judge = Scripted("blind", takes_images=False), Scripted("j", ["the answer"], takes_images=False)
    models: list[ChatModel] = [Metered(seeing), blind, judge]
    config = {"strategy": "synthesize", "panel": ["eyes", "blind"], "judge": "j", "budget": {"tokens": 5000}}
    reply = await fusion(models, f=config)["f"].answer(red)
    assert reply.choices[0].text == "the answer"
    assert reply.report is not None
    assert [(each.member, each.code) for each in reply.report.failed] == [("blind", "takes_no_images")]
    assert [candidate.text for candidate in reply.report.candidates] == texts[:1]

    # As a judge of what others wrote it sees the picture, too, and what is shown to it fits by its own count.
    drafts = [Scripted(name, [f"draft of {name}"]) for name in "ab"]
    config = {"strategy": "synthesize", "panel": ["a", "b"], "judge": "eyes"}
    reply = await fusion([*drafts, seeing], f={**config, "analysis": False})["f"].answer(red)
    written = next(call for call in reply.calls if call.stage == "synthesis")
    assert written.usage.prompt_tokens > room.tokens
