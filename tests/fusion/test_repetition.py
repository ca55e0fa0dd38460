"""Repetition: loops are found soon, and what only looks like one passes."""

from __future__ import annotations

import random

import pytest

from local_fusion.fusion.repetition import GRAM, Repetition

INTRODUCTION = (
    "The harbour was built in 1862, when the town still lived on herring. Its two moles, each of them some four "
    "hundred metres long, were raised from granite that came by barge from the quarries up the coast. "
)


def watch(text: str, size: int = 5) -> tuple[int | None, int]:
    """Where the repetition begins, and after how many characters that was known; text comes in pieces of `size`."""
    repetition = Repetition()
    for start in range(0, len(text), size):
        if (began := repetition.feed(text[start : start + size])) is not None:
            return began, start + size
    return None, len(text)


LOOPS = {
    "a sentence": "I hope this helps you with your question. ",
    "a paragraph": (
        "In conclusion, the harbour remains what it has always been for the people of the town: a place of work, of "
        "departures and of returns, and the first thing that anyone sees who comes home from the sea after a winter "
        "in the north, tired and glad. "
    ),
    "a line of a list": "- Check the connection between the pump and the tank.\n",
    "a line of code": "    result = compute_total(values, weights, scale)\n",
    "words without spaces between them": "港は町の人々にとって大切な場所であり続けている。",
}


@pytest.mark.parametrize("unit", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_loop_is_found_where_its_first_repetition_begins(unit: str, size: int) -> None:
    began, known = watch(INTRODUCTION + unit * 40, size)
    assert began is not None
    assert abs(began - len(INTRODUCTION + unit)) <= 1  # white space between words belongs to the one that follows
    assert known <= len(INTRODUCTION + unit) + max(6 * len(unit) + 40, 3 * len(unit)) + size


def test_a_list_that_only_counts_on_is_a_loop() -> None:
    text = INTRODUCTION + "\n" + "".join(f"{number}. Check the pump before you start it.\n" for number in range(1, 40))
    began, _ = watch(text)
    assert began is not None
    assert text[began:].lstrip().startswith("2. Check")


@pytest.mark.parametrize("unit", ["the ", "ha", "=", "0, ", "\n", "\u200b ", "so very "])
def test_even_single_words_and_signs_are_a_loop_after_a_while(unit: str) -> None:
    began, known = watch(INTRODUCTION + unit * 4000)
    assert began is not None
    assert began <= len(INTRODUCTION) + 160
    assert known <= len(INTRODUCTION) + 3000


def test_a_loop_whose_parts_come_in_changing_order_is_found() -> None:
    parts = [
        "I am not sure what the harbour master meant by that. ",
        "Perhaps the granite was never meant for the northern mole. ",
        "The letters of that year say nothing about the matter. ",
    ]
    order = random.Random(1)
    began, known = watch(INTRODUCTION + "".join(order.choice(parts) for _ in range(200)))
    assert began is not None
    assert began > len(INTRODUCTION)
    assert known < len(INTRODUCTION) + 3000


def test_a_loop_with_an_inner_repetition_is_found() -> None:
    unit = "one two three four five six seven and one two three four five six seven or so, "
    assert watch(INTRODUCTION + unit * 20)[0] is not None


TABLE = "| Month | Open | Closed | Notes |\n| --- | --- | --- | --- |\n" + "".join(
    f"| {month} | yes | no | none |\n" for month in ["January", "February", "March", "April", "May", "June", "July"]
)
ZEROS = "matrix = [\n" + "    [0, 0, 0, 0, 0, 0, 0, 0, 0],\n" * 9 + "]\n"
GRID = (". " * 19 + ".\n") * 19
CODE = "".join(
    f"""
def test_{name}_is_rejected(client):
    response = client.post("/items", json={{"name": "{name}", "price": 10}})
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "{name}"]
"""
    for name in ("size", "colour", "weight", "height", "width", "depth", "owner", "maker")
)
REFRAIN = """
We'll go no more a-roving
So late into the night,
Though the heart be still as loving,
And the moon be bright.
"""
VERSES = [
    "The sword outwears its sheath, they say,\nand every oar its groove;\n",
    "The lamps along the quay went out\nwhile someone called a name;\n",
    "A bell rang twice across the bay,\nand nobody came down;\n",
    "The tide had turned before the moon\nlay flat upon the stones;\n",
    "And what the gulls had left of bread\nthe morning took away;\n",
]
POEM = "".join(verse + REFRAIN for verse in VERSES)
CHORUS = "Na na na na, na na na na, hey hey hey, goodbye\n" * 8
BOTTLES = "".join(
    f"{left} bottles of beer on the wall, {left} bottles of beer.\n"
    f"Take one down and pass it around, {left - 1} bottles of beer on the wall.\n\n"
    for left in range(99, 1, -1)
)
JSON = "[\n" + ",\n".join(f'  {{"id": {n}, "active": true, "role": "user", "score": 0}}' for n in range(60)) + "\n]"
HTML = "<table>\n" + ("  <tr>\n" + "    <td></td>\n" * 5 + "  </tr>\n") * 6 + "</table>\n"
STEPS = "".join(
    f"{n}. Add the {what} and stir for {n} minutes until everything is well mixed.\n"
    for n, what in enumerate(["flour", "sugar", "butter", "eggs", "milk", "yeast", "salt", "raisins", "nuts"], 1)
)
ADDRESSES = "".join(f"192.168.0.{n} www{n}.example.org www{n}\n" for n in range(200))
JAPANESE = (
    "港は一八六二年に建てられた。町はまだ鰊で暮らしていた。港の石は海岸の石切場から船で運ばれた。港の灯台は丘の上に立つ。"
    * 2
)
SPANISH = "No es lo mismo decir que no es lo mismo, que decir que es lo mismo que no decir lo mismo. " * 2
PASSES = {
    "a table": TABLE,
    "a matrix of zeros": ZEROS,
    "a grid of dots": GRID,
    "tests that look alike": CODE,
    "a poem with a refrain": POEM,
    "a chorus": CHORUS,
    "a counting song": BOTTLES,
    "JSON records": JSON,
    "a table in HTML": HTML,
    "steps of a recipe": STEPS,
    "a list of hosts": ADDRESSES,
    "rulers": ("-" * 80 + "\n" + INTRODUCTION[:90] + "\n") * 2,
    "a paragraph quoted once more": INTRODUCTION,
    "Japanese prose": JAPANESE,
    "a play on words": SPANISH,
}


@pytest.mark.parametrize("text", PASSES.values(), ids=PASSES)
@pytest.mark.parametrize("size", [1, 11])
def test_what_only_looks_like_a_loop_passes(text: str, size: int) -> None:
    assert watch(INTRODUCTION + text, size)[0] is None


def test_ordinary_text_is_safe_to_send_but_for_its_last_few_words() -> None:
    repetition = Repetition()
    for fed, letter in enumerate(INTRODUCTION, start=1):
        assert repetition.feed(letter) is None
        assert len(INTRODUCTION[repetition.safe : fed].split()) <= GRAM


def test_nothing_of_a_repetition_was_ever_safe_to_send() -> None:
    unit = LOOPS["a sentence"]
    repetition, began = Repetition(), None
    safest = 0
    for letter in INTRODUCTION + unit * 20:
        began = repetition.feed(letter)
        if began is not None:
            break
        safest = max(safest, repetition.safe)
    assert began is not None
    assert safest <= began


def test_where_it_begins_does_not_depend_on_how_the_text_was_cut_into_pieces() -> None:
    text = INTRODUCTION + LOOPS["a line of a list"] * 12
    cuts = random.Random(2)
    for _ in range(20):
        repetition, rest, began = Repetition(), text, None
        while rest and began is None:
            size = cuts.randint(1, 40)
            began, rest = repetition.feed(rest[:size]), rest[size:]
        assert began == watch(text)[0]


def test_a_long_text_costs_a_constant_for_each_word() -> None:
    """Every word is looked at once: a text of twice the length makes twice the steps, counted and not timed."""
    order = random.Random(3)

    def steps(words: int) -> int:
        counted = 0

        class Counting(str):
            __slots__ = ()

            def __eq__(self, other: object) -> bool:
                nonlocal counted
                counted += 1
                return str.__eq__(self, other)

            __hash__ = str.__hash__

        repetition = Repetition()
        whole = repetition._whole_words
        repetition._whole_words = lambda text: (Counting(word) for word in whole(text))  # type: ignore[method-assign]
        phrases = [" ".join(order.choice("abcdefgh") * 3 for _ in range(12)) for _ in range(8)]
        for _ in range(words // 12):
            repetition.feed(f"{order.choice(phrases)} {order.random()} ")
        return counted

    assert steps(8000) < 2.5 * steps(4000)
