"""Short questions, from easy to hopeless for a small model, with answers that can be counted: choices and numbers."""

from __future__ import annotations

from dataclasses import dataclass

_CHOICES = """\
Which of these is a fruit? hammer | apple | river | cloud
Which of these is an animal? horse | table | bottle | candle
Which colour is the sky on a clear day? green | red | blue | brown
Which of these can fly? stone | chair | shoe | eagle
What do people drink? sand | water | glass | paper
Which month comes after March? June | January | April | October
Which of these is the largest? mouse | elephant | cat | rabbit
Which of these is hot? ice | snow | fire | frost
What is the capital of France? Rome | Berlin | Madrid | Paris
What is the capital of Japan? Tokyo | Seoul | Beijing | Hanoi
What is the capital of Australia? Sydney | Canberra | Perth | Melbourne
What is the capital of Canada? Toronto | Montreal | Ottawa | Vancouver
Which planet is closest to the sun? Venus | Earth | Mars | Mercury
Which planet is the largest? Jupiter | Saturn | Neptune | Earth
Which gas do plants take in? oxygen | carbon dioxide | helium | argon
Which metal is liquid at room temperature? iron | copper | mercury | tin
Who wrote Hamlet? Dickens | Shakespeare | Goethe | Tolstoy
Who painted the Mona Lisa? Picasso | Monet | Leonardo da Vinci | Rembrandt
How many legs does a spider have? four | six | ten | eight
Which ocean is the largest? Pacific | Atlantic | Indian | Arctic
Which language is spoken in Brazil? Spanish | Portuguese | Italian | French
What is the chemical symbol of gold? Ag | Fe | Au | Pb
Which of these is a prime number? 21 | 27 | 29 | 33
In which year did the Second World War end? 1918 | 1939 | 1945 | 1950
Which of these is a mammal? salmon | dolphin | lizard | sparrow
What does a thermometer measure? length | weight | sound | temperature
Which instrument has strings? violin | drum | flute | trumpet
Which of these is a vegetable? salmon | carrot | bread | cheese
Which organ pumps blood? liver | lung | heart | kidney
Which of these is the opposite of cold? hot | wet | dark | slow
What is frozen water called? steam | ice | dew | fog
Which shape has three sides? square | circle | triangle | pentagon"""

_NUMBERS = """\
What is 1 plus 1?
What is 2 plus 3?
What is 5 plus 5?
What is 10 plus 10?
What is 7 plus 8?
What is 10 minus 4?
What is 9 minus 9?
What is 2 times 3?
What is 5 times 5?
What is 6 times 7?
What is 12 times 12?
What is 100 divided by 10?
What is 17 plus 26?
What is 123 plus 456?
What is 13 times 17?
What is 81 minus 47?
How many days are in a week?
How many months are in a year?
How many hours are in a day?
How many minutes are in an hour?
How many sides does a triangle have?
How many legs does a dog have?
How many letters are in the English alphabet?
How many fingers are on one hand?
How many wheels does a bicycle have?
How many continents are there?
How many planets are in the solar system?
How many players of one team are on a football field?
How many degrees are in a right angle?
How many cents are in a dollar?
In which year did the first people land on the moon?
At how many degrees Celsius does water boil?"""

_LETTERS = "ABCD"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how a vote finds the answer in what comes back (see `VoteConfig.extract`)."""

    text: str
    extract: str


def questions() -> list[Question]:
    """All of them, the two kinds in turn."""
    choices = [Question(_choice(line), "choice") for line in _CHOICES.splitlines()]
    numbers = [Question(f"{line} Reply with the number only.", "number") for line in _NUMBERS.splitlines()]
    return [question for both in zip(choices, numbers, strict=True) for question in both]


def _choice(line: str) -> str:
    asked, _, rest = line.partition("? ")
    options = "\n".join(f"{letter}) {option}" for letter, option in zip(_LETTERS, rest.split(" | "), strict=True))
    return f"{asked}?\n{options}\nReply with one letter only: A, B, C or D."
