"""Rigs on paper: what is understood, what is refused and how, and that nothing else ever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fusion.errors import ConfigError
from local_fusion.hardware.cards import CARDS, IDLE_BYTES, find_card
from local_fusion.hardware.rigs import parse_rig

GIB = 1024**3
MIB = 1024**2


def problem(spec: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_rig(spec)
    assert caught.value.exit_code == 2
    assert "4x24GiB,1x48GiB" in caught.value.hint
    (line,) = caught.value.problems
    return line


def test_sizes_are_cards_with_that_memory_less_what_idle_cards_hold() -> None:
    rig = parse_rig("2x24GiB, 48 GiB")
    assert [(device.index, device.name, device.total_bytes) for device in rig.devices] == [
        (0, "24 GiB GPU", 24 * GIB),
        (1, "24 GiB GPU", 24 * GIB),
        (2, "48 GiB GPU", 48 * GIB),
    ]
    assert [device.reserved_bytes for device in rig.devices] == [IDLE_BYTES] * 3
    assert {(device.kind, device.island, device.cores) for device in rig.devices} == {("cuda", 0, ())}
    assert (rig.on_paper, rig.host_ram_bytes) == (True, None)


def test_known_cards_have_the_name_and_memory_that_nvml_reports() -> None:
    first, second, third = parse_rig("2xRTX4090,1xH200").devices
    assert first.name == second.name == "NVIDIA GeForce RTX 4090"
    assert (first.total_bytes, third.name, third.total_bytes) == (24564 * MIB, "NVIDIA H200", 143771 * MIB)


def test_host_ram_is_said_once_and_a_share_of_it_is_for_engines() -> None:
    assert parse_rig("8xH100,ram=1TiB", share=0.5).host_ram_bytes == 512 * GIB
    assert parse_rig("RAM = 64GiB, T4", share=1).host_ram_bytes == 64 * GIB


def test_a_cpu_on_paper_is_one_device_with_a_share_of_its_ram() -> None:
    rig = parse_rig("cpu:64GiB:4", share=0.5)
    (device,) = rig.devices
    assert (device.kind, device.total_bytes, device.free_bytes) == ("cpu", 64 * GIB, 32 * GIB)
    assert (device.cores, rig.host_ram_bytes) == ((0, 1, 2, 3), None)
    assert len(parse_rig("CPU: 64GiB").devices[0].cores) == 16


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("h100-sxm", "NVIDIA H100 80GB HBM3"),
        ("1xH100-PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe"),
        ("1 × rtx 3090", "NVIDIA GeForce RTX 3090"),
        ("1*4090", "NVIDIA GeForce RTX 4090"),
        ("A6000", "NVIDIA RTX A6000"),
        ("6000 ada", "NVIDIA RTX 6000 Ada Generation"),
    ],
)
def test_a_card_is_found_under_the_names_that_people_use(text: str, name: str) -> None:
    (device,) = parse_rig(text).devices
    assert device.name == name


def test_every_known_card_is_found_by_its_own_key_and_no_other_card_is() -> None:
    for card in CARDS:
        assert find_card(card.key) is card
        assert find_card(card.key.lower()) is card
        assert find_card(card.name) in (card, None)


def test_a_name_that_stands_for_several_sizes_is_not_guessed() -> None:
    assert "'V100' may be V100-16GB or V100-32GB" in problem("V100")
    assert "'RTX 4060 Ti' may be RTX4060Ti-16GB" in problem("2xRTX 4060 Ti")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("RTX409", "'RTX409' is no known card; did you mean RTX4090?"),
        ("4x24GiB,2xH1000", "in the rig, '2xH1000': 'H1000' is no known card; did you mean H100?"),
        ("quantum", "is no known card, and no size with its unit, such as 24GiB"),
        ("4x24", "'24' is no known card, and no size with its unit, such as 24GiB"),
        ("4x1.2.3GiB", "expected a number of bytes such as 2GiB"),
        ("", "is empty"),
        ("24GiB,,48GiB", "has an empty part"),
        ("0xT4", "expected 1 to 64 GPUs of a kind, not 0"),
        ("65xT4", "expected 1 to 64 GPUs of a kind, not 65"),
        ("9" * 500 + "xT4", "expected 1 to 64 GPUs of a kind, not 9999999999"),
        ("-1xT4", "'-1xT4' is no known card"),
        (",".join(["64xT4"] * 4 + ["T4"]), "has more than 256 GPUs"),
        ("4x512MiB", "expected 1 GiB to 1024 GiB, not 512 MiB"),
        ("2TiB", "expected 1 GiB to 1024 GiB, not 2048 GiB"),
        ("ram=64GiB", "has no GPU"),
        ("T4,ram=64", "expected a size with its unit, such as 64GiB, not '64'"),
        ("T4,ram=64GiB,ram=64GiB", "comes after another ram="),
        ("cpu:64GiB,T4", "stands alone"),
        ("T4,cpu:64GiB", "stands alone"),
        ("cpu:", "expected a size with its unit"),
        ("cpu:64GiB:0", "expected 1 to 1024 cores after the size, not '0'"),
        ("cpu:64GiB:many", "expected 1 to 1024 cores after the size, not 'many'"),
        ("x" * 2000, "is longer than 1000 characters"),
    ],
)
def test_what_is_wrong_names_the_part_and_what_was_expected(spec: str, says: str) -> None:
    assert says in problem(spec)
    assert len(problem(spec)) < 300


PARTS = st.sampled_from(
    ["2x", "x", "24GiB", "RTX4090", "H", "1e9", "ram=", "cpu:", ":", ",", " ", "0", "9" * 30, "٣", "TiB"]
)


@given(st.one_of(st.text(), st.lists(PARTS, max_size=8).map("".join)))
def test_any_text_is_a_rig_within_bounds_or_one_clear_error(spec: str) -> None:
    try:
        rig = parse_rig(spec)
    except ConfigError:
        assert problem(spec)
        return
    assert 1 <= len(rig.devices) <= 256
    assert [device.index for device in rig.devices] == list(range(len(rig.devices)))
    assert all(0 < device.free_bytes <= device.total_bytes for device in rig.devices)
