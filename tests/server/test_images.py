"""Images over HTTP: whether a model takes them is known from its checkpoint, before any engine is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp

from local_fusion.config.schema import Config
from tests.engines.waiting import recorded
from tests.fake_engine import Script
from tests.serving import EYES, serving, tiny_checkpoint, tiny_config

# One pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = f"data:image/png;base64,{PNG}"
SHOWN = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
FUSIONS = {
    "panel": {"strategy": "synthesize", "panel": ["eyes", "blind"], "judge": "blind", "analysis": False},
    "dark": {"strategy": "vote", "panel": ["blind"]},
}


def config_in(folder: Path) -> Config:
    config = tiny_config(folder, ["eyes", "blind"], fusions=FUSIONS)
    tiny_checkpoint(folder / "eyes", **EYES)
    return config


async def post(url: str, model: str) -> tuple[int, dict[str, Any]]:
    asked = {"model": model, "messages": [{"role": "user", "content": SHOWN}]}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=asked) as answer:
        return answer.status, await answer.json()


async def test_members_that_take_images_get_them_and_the_writer_reads_the_text(tmp_path: Path) -> None:
    record = {name: tmp_path / f"{name}.record" for name in ("eyes", "blind")}
    scripts: dict[str, Script | list[Script]] = {
        "eyes": Script(rules=[("What", "a cat")], record=str(record["eyes"])),
        "blind": Script(rules=[("a cat", "a pet")], record=str(record["blind"])),
    }
    async with serving(config_in(tmp_path), scripts) as served:
        status, told = await post(served.url, "panel")
        assert status == 200
        assert told["choices"][0]["message"]["content"] == "a pet"
        assert [(each["member"], each["code"]) for each in told["fusion"]["failed"]] == [("blind", "takes_no_images")]
        (asked,) = (entry["body"] for entry in recorded(record["eyes"]) if entry["event"] == "request")
        assert asked["messages"][0]["content"] == SHOWN
        (written,) = (entry["body"] for entry in recorded(record["blind"]) if entry["event"] == "request")
        assert written["messages"][0]["content"].startswith("What is this?\n[image]\n")
        assert PICTURE not in json.dumps(written)

        status, told = await post(served.url, "dark")
        assert status == 400
        assert told["error"]["code"] == "takes_no_images"
        assert told["error"]["param"] == "messages[0].content[1]"
        assert len([entry for entry in recorded(record["blind"]) if entry["event"] == "request"]) == 1

        assert [served.runtime.takes_images(name) for name in ("eyes", "blind", "panel", "dark")] == [
            True,
            False,
            True,
            False,
        ]
