"""Whose key it is, over the time of its life, and while its file changes."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from local_fusion.errors import ConfigError
from local_fusion.server.guard.keyring import LOOK_SECONDS, Keyring
from tests.server.guard.guarded import entry, keyed

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass
class Clocks:
    """What time it is, and how many seconds have gone by."""

    today: datetime = NOW
    seconds: float = 0.0

    def ring(self, path: Path) -> Keyring:
        return Keyring(path, lambda: self.today, lambda: self.seconds)


def name(ring: Keyring, *keys: str) -> str | None:
    found = ring.who([key.encode() for key in keys])
    return None if found is None else found.name


def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    ring = Clocks().ring(keyed(tmp_path, entry("alice"), entry("bob")))
    assert name(ring, "lf-alice") == "alice"
    assert name(ring, "lf-bob") == "bob"
    for wrong in ("", "lf-", "lf-alic", "lf-alicE", "lf-alice ", "alice", entry("alice").sha256, "ключ", "\0"):
        assert name(ring, wrong) is None


def test_one_of_two_that_are_shown_is_enough_but_not_those_of_two_people(tmp_path: Path) -> None:
    ring = Clocks().ring(keyed(tmp_path, entry("alice"), entry("bob")))
    assert name(ring, "sk-of-somebody-else", "lf-alice") == "alice"
    assert name(ring, "lf-alice", "lf-alice") == "alice"
    assert name(ring, "lf-alice", "lf-bob") is None
    assert name(ring) is None


def test_every_hash_is_compared_whichever_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = [{"sha256": entry("old").sha256, "until": NOW + timedelta(days=1)}]
    ring = Clocks().ring(keyed(tmp_path, entry("a"), entry("b", former=former), entry("c")))
    compared: list[str] = []
    compare = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append(other)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key in ("lf-a", "lf-old", "lf-nobody"):
        compared.clear()
        name(ring, key)
        assert len(compared) == 4


def test_an_expired_key_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    clocks = Clocks()
    ring = clocks.ring(keyed(tmp_path, entry("alice", expires=NOW + timedelta(seconds=10))))
    assert name(ring, "lf-alice") == "alice"
    clocks.today += timedelta(seconds=10)
    assert name(ring, "lf-alice") is None


def test_the_key_before_is_good_until_its_time_is_over(tmp_path: Path) -> None:
    clocks = Clocks()
    former = [{"sha256": entry("old").sha256, "until": NOW + timedelta(hours=1)}]
    ring = clocks.ring(keyed(tmp_path, entry("alice", "lf-new", former=former)))
    assert (name(ring, "lf-new"), name(ring, "lf-old")) == ("alice", "alice")
    clocks.today += timedelta(hours=1)
    assert (name(ring, "lf-new"), name(ring, "lf-old")) == ("alice", None)


def test_a_file_that_changes_is_read_again_after_a_second_at_most(tmp_path: Path) -> None:
    clocks = Clocks()
    ring = clocks.ring(keyed(tmp_path, entry("alice")))
    keyed(tmp_path, entry("bob"))
    assert (name(ring, "lf-alice"), name(ring, "lf-bob")) == ("alice", None)
    clocks.seconds += LOOK_SECONDS
    assert (name(ring, "lf-alice"), name(ring, "lf-bob")) == (None, "bob")


def test_it_can_be_looked_at_at_once(tmp_path: Path) -> None:
    ring = Clocks().ring(keyed(tmp_path, entry("alice")))
    keyed(tmp_path, entry("bob"))
    ring.look(at_once=True)
    assert name(ring, "lf-bob") == "bob"


@pytest.mark.parametrize("how", ["broken", "writable", "gone"])
def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_once(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    path = keyed(tmp_path, entry("alice"))
    ring = clocks.ring(path)
    if how == "broken":
        path.write_text("keys: [")
    elif how == "writable":
        path.chmod(0o666)
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            clocks.seconds += LOOK_SECONDS
            assert name(ring, "lf-alice") == "alice"
    assert [record.message.startswith("the API keys stay as they were") for record in caplog.records] == [True]
    if how == "writable":
        path.chmod(0o600)
    keyed(tmp_path, entry("bob"))
    clocks.seconds += LOOK_SECONDS
    assert (name(ring, "lf-alice"), name(ring, "lf-bob")) == (None, "bob")


def test_at_first_the_file_has_to_be_good(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        Clocks().ring(tmp_path / "keys.yaml")


def test_hashes_that_others_may_read_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = keyed(tmp_path, entry("alice"))
    path.chmod(0o644)
    Clocks().ring(path)
    assert "others may read the hashes" in caplog.text


def test_a_file_without_keys_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Clocks().ring(keyed(tmp_path))
    assert "nobody may ask anything" in caplog.text
