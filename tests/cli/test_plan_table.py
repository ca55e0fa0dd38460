"""A plan in a terminal: nothing is cut off, everything can be told apart without colour, and it says why."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some
from rich.console import Console

from local_fusion.cli.plan_table import NARROWEST, print_plan
from local_fusion.cli.plan_view import device_views, in_cells, letters
from local_fusion.config.quantities import format_bytes
from local_fusion.planner.explain import Alternative, Reason
from local_fusion.planner.memory.need import Overhead
from local_fusion.planner.plan import Plan, Solver
from tests.cli.plans import GIB, beside, gpu, in_turns, large, on_cpu, placed, planned

PLANS = {"beside": beside(), "in turns": in_turns(), "large": large(), "CPU": on_cpu()}
FILLS = "█▓▒░·_╱"


def shown(plan: Plan, width: int = 80, *, on_paper: bool = True, reasons: tuple[Reason, ...] = ()) -> str:
    """What a pipe gets."""
    file = io.StringIO()
    print_plan(plan, Console(file=file, width=width), on_paper=on_paper, reasons=reasons)
    return file.getvalue()


def bars(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and set(line) <= set(FILLS)]


def words(text: str) -> str:
    """The text as if lines had no end."""
    return " ".join(text.split())


def numbers(plan: Plan) -> Iterator[list[str]]:
    """What the table says of each model on each of its devices, from left to right."""
    for placement in plan.placements:
        sizes = (placement.weights_bytes, placement.kv_cache_bytes, placement.overhead_bytes, placement.awake_bytes)
        row = [*map(format_bytes, sizes), f"{placement.max_model_len:,}", f"{placement.max_concurrent_requests:.1f}"]
        yield from [row] * placement.tensor_parallel


@pytest.mark.parametrize("width", [40, 80, 140])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_no_number_is_cut_off_at_any_width(plan: Plan, width: int) -> None:
    text = shown(plan, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= max(width, NARROWEST)
    rows = [line for line in text.splitlines() if re.search(r"\d+,\d+ +[\d.]+\*?$", line)]
    expected = [r" +".join(map(re.escape, row)) + "$" for row in numbers(plan)]
    assert len(rows) == len(expected)
    assert [row for row in expected if not any(re.search(row, line) for line in rows)] == []


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_device_has_a_heading_and_a_bar_over_the_whole_width(plan: Plan) -> None:
    text = shown(plan, 100)
    assert [len(bar) for bar in bars(text)] == [100] * len(plan.devices)
    for view in device_views(plan):
        total = format_bytes(view.device.total_bytes)
        assert re.search(
            rf"^{view.title}  {re.escape(view.device.name)}.* {total}, \S+ GiB to use$", text, re.MULTILINE
        )


def test_a_bar_is_made_of_each_models_parts_then_what_is_free_left_alone_and_others() -> None:
    first, second, third = bars(shown(beside(), 96))  # four cells a GiB
    assert first == "█" * 37 + "▓" * 32 + "▒" * 8 + "██▓▓▓▒▒" + "·" * 6 + "__" + "╱" * 4
    assert second == third == "█" * 54 + "▓" * 16 + "▒" * 14 + "·" * 6 + "__" + "╱" * 4


def test_below_a_bar_stand_the_letters_of_its_models_and_their_names_where_there_is_room() -> None:
    lines = shown(beside(), 96).splitlines()
    assert lines[2].rstrip() == "A qwen" + " " * 71 + "B tiny"
    narrow = shown(beside(), 80).splitlines()
    assert narrow[2].split() == ["A", "qwen", "B"]


def test_the_legend_explains_what_is_to_be_seen_and_nothing_else() -> None:
    assert "█ weights   ▓ KV cache   ▒ overhead   · free   ╱ the system's and others'" in shown(on_cpu(), 100)
    wrapped = shown(in_turns(), 80)
    for entry in ("░ left by models asleep", "_ kept free", "╱ kept by the driver"):
        assert entry in wrapped


def test_what_cannot_be_planned_is_held_by_others_here_and_kept_by_the_driver_on_paper() -> None:
    here, paper = shown(beside(), 100, on_paper=False), shown(beside(), 100, on_paper=True)
    assert "512 MiB kept free · 1 GiB held by others" in here
    assert "╱ held by others" in here
    assert "driver" not in here
    assert paper == here.replace("held by others", "kept by the driver").replace("3 GPUs:", "3 GPUs on paper:")
    assert "8 GiB the system's and others'" in shown(on_cpu(), on_paper=False)


def test_a_terminal_without_unicode_gets_a_bar_of_plain_characters() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", errors="replace", write_through=True), width=96)
    print_plan(beside(), console, on_paper=True)
    assert "#" * 37 + "=" * 32 + "-" * 8 + "##===--......__////" in raw.getvalue().decode()


def test_with_colours_each_model_has_a_hue_of_its_own_and_the_text_is_the_same() -> None:
    file = io.StringIO()
    print_plan(beside(), Console(file=file, width=80, force_terminal=True, color_system="standard"), on_paper=True)
    coloured = file.getvalue()
    hues = re.findall(r"\x1b\[(\d+)m█+", coloured)
    assert len(set(hues[:2])) == 2
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == shown(beside())


def test_a_split_model_says_which_part_is_where() -> None:
    text = shown(beside())
    assert [re.findall(r"(\d of \d)", line) for line in text.splitlines() if line.startswith("C  phi")] == [
        ["1 of 2"],
        ["2 of 2"],
    ]


def test_a_long_name_is_folded_and_costs_no_number() -> None:
    name = "an-organisation/" + "very-" * 12 + "long-name"
    plan = planned(placed(name, 0, weights=9.25, kv=8, overhead=2), devices=(gpu(0),))
    text = shown(plan)
    assert re.search(r"9\.25 GiB +8 GiB +2 GiB +19\.2 GiB +16,384 +16\.0$", text, re.MULTILINE)
    table = text[text.index("at once") + len("at once") : text.index("3.25 GiB free")]
    pieces = [line.split()[1 if line.startswith("A") else 0] for line in table.splitlines() if line.strip()]
    assert "".join(pieces) == name


def test_measured_numbers_are_marked_and_computed_ones_are_not() -> None:
    seen = replace(
        placed("a", 0, weights=9.25, kv=8, overhead=2, measured=frozenset({"weights", "overhead"})),
        overhead=Overhead(measured=2 * GIB),
    )
    text = shown(planned(seen, placed("b", 0, weights=1.5, kv=0.5, overhead=0.5), devices=(gpu(0),)))
    assert re.search(r"^A +a +9\.25 GiB\* +8 GiB +2 GiB\* +19\.2 GiB +16,384 +16\.0$", text, re.MULTILINE)
    assert re.search(r"^B +b +1\.5 GiB +512 MiB +512 MiB ", text, re.MULTILINE)
    assert "* measured" in text
    assert "* measured" not in shown(beside())


def test_models_in_turns_say_with_whom_why_how_they_sleep_and_what_would_spare_it() -> None:
    text = words(shown(in_turns()))
    assert "in turns B gemma 14.5 GiB 3 GiB 2 GiB 19.5 GiB" in text
    assert "gemma takes turns with olmo: it needs 18 GiB, but at most 3 GiB are left" in text
    assert "to be awake all the time: → `eager: true`" in text
    for model, held in (("olmo", "13.5"), ("gemma", "14.5")):
        assert f"{model} while it waits: asleep at level 1, its weights in host RAM ({held} GiB); 1.25 GiB stay" in text
    assert "models asleep hold 28 GiB of 64 GiB of free host RAM" in text
    assert "1.25 GiB left by models asleep" in text


@pytest.mark.parametrize(
    ("asleep", "says"),
    [
        ("level 2", "its weights dropped and read again to wake; 1.25 GiB stay"),
        ("stopped", "stopped, and started again"),
    ],
)
def test_other_ways_to_make_room_are_told_as_well(asleep: str, says: str) -> None:
    plan = in_turns()
    changed = tuple(replace(each, asleep=asleep, host_bytes=0) for each in plan.placements)  # type: ignore[arg-type]
    assert says in words(shown(replace(plan, placements=changed)))


def test_a_refusal_says_why_and_what_would_make_it_fit() -> None:
    text = words(shown(in_turns()))
    assert "✗ huge fits nowhere: it needs 140 GiB, but at most 22.5 GiB are free to make it fit: → 5 more GPUs" in text
    turns = "1 in turns (how that goes: local-fusion simulate)"
    assert f"✗ 3 models on 1 GPU on paper: 1 awake, {turns}, 1 refused" in text
    lost = replace(in_turns(), refusals=(replace(in_turns().refusals[0], suggestions=()),))
    assert "→ no single change makes it fit" in words(shown(lost))


def test_a_rig_on_which_nothing_fits_is_shown_empty() -> None:
    text = shown(planned(devices=(gpu(0),), refusals=in_turns().refusals))
    assert bars(text) == ["·" * 75 + "__" + "╱" * 3]
    assert "✗ 1 model on 1 GPU on paper: 0 awake, 1 refused" in text


def test_a_warning_is_told_once_for_all_its_models_and_not_again_as_a_note() -> None:
    warned = [
        placed(name, 0, weights=2, kv=2, overhead=1, warnings=("there are no weights yet",)) for name in ("a", "b", "c")
    ]
    notes = ("a: there are no weights yet", "2 engines share 1 CPU core")
    text = shown(planned(*warned, devices=(gpu(0),), notes=notes))
    assert text.count("there are no weights yet") == 1
    assert "! a, b and c: there are no weights yet" in text
    assert "- 2 engines share 1 CPU core" in text
    assert re.search(r"^A +a !", text, re.MULTILINE)


def test_a_plan_with_turns_gets_no_tick_and_says_that_serve_does_not_start_it() -> None:
    text = words(shown(replace(in_turns(), refusals=())))
    assert "! 2 models on 1 GPU on paper: 1 awake, 1 in turns (how that goes: local-fusion simulate)" in text
    assert "✓" not in text
    assert "✓ 3 models on 3 GPUs on paper: all awake together" in words(shown(beside()))


@pytest.mark.parametrize(
    ("solver", "says"),
    [
        (Solver("optimal", 0.0, 0.42), "optimal, gap 0.0 %, 0.42 s: nothing better exists"),
        (Solver("feasible", 0.032, 5.01), "feasible, gap 3.2 %, 5.01 s: the weakest fusion's requests at once may be"),
        (Solver("feasible", None, 5.01), "feasible, no bound, 5.01 s: how much better there could be is not known"),
        (Solver("greedy", None, 0.01), "greedy, no bound, 0.01 s: no solver ran"),
    ],
)
def test_the_last_line_says_how_sure_the_plan_is(solver: Solver, says: str) -> None:
    assert says in words(shown(replace(beside(), solver=solver)))


def test_a_model_that_has_no_alternative_is_explained_by_what_was_chosen_alone() -> None:
    text = shown(beside(), reasons=(Reason("qwen", "on GPU 0, where it is pinned", ()),))
    (_, after) = text.split("\nqwen on GPU 0, where it is pinned\n")
    assert "instead" not in text
    assert after.strip().startswith("✓ 3 models")


def test_what_a_plan_tells_is_no_markup() -> None:
    odd = "quantization [bold]x[/bold] is not known [/]"
    plan = planned(placed("a", 0, weights=2, kv=2, overhead=1, warnings=(odd,)), devices=(gpu(0),), notes=("[red]",))
    text = shown(plan, 100, reasons=(Reason("a", "[i]here", (Alternative("[b]there", "[/x]"),)),))
    for told in (f"! a: {odd}", "- [red]", "a [i]here", "[b]there instead: [/x]"):
        assert told in text


def test_the_explanation_names_what_else_could_have_been() -> None:
    reason = Reason("qwen", "on GPU 0", (Alternative("on GPU 1", "2 fusions could be served, not 3"),))
    assert "qwen on GPU 0 on GPU 1 instead: 2 fusions could be served, not 3" in words(
        shown(beside(), reasons=(reason,))
    )


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_the_segments_of_a_device_add_up_to_its_memory(plan: Plan) -> None:
    for view in device_views(plan):
        assert sum(segment.bytes for segment in view.segments) == view.device.total_bytes


@given(some.lists(some.integers(1, 10**12), min_size=1, max_size=40), some.integers(40, 200))
def test_cells_fill_the_width_and_everything_is_seen_nearly_in_proportion(sizes: list[int], width: int) -> None:
    cells = in_cells(sizes, width)
    assert sum(cells) == width
    assert min(cells) >= 1
    exact = [size * width / sum(sizes) for size in sizes]
    assert all(cell < share + 1 or cell == 1 for cell, share in zip(cells, exact, strict=True))


def test_letters_go_on_after_z() -> None:
    assert [letters(position) for position in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]
