"""Wrong and other right answers to chapter 1's exercise."""

from __future__ import annotations

from tests.mutants.cases import mutant, right


@right("1.1", "full stops between, the cat last")
def text_with_stops():
    return "the cat saw . the dog saw the hen . the cat"


@right("1.1", "other words, lines broken, the hen last")
def text_with_other_words():
    return """the cat saw the dog saw them sleep
    by the cat near the hen"""


@mutant("1.1", "the sentence itself stands in it", says="word for word")
def text_with_the_sentence():
    return "the dog saw the cat saw . the cat . the hen"


@mutant("1.1", "one cat too few", says="after 'the' your text gives: cat 1/3")
def text_with_one_cat():
    return "the cat saw . the dog saw the hen ."


@mutant("1.1", "a fifth word after the", says="cat 2/5")
def text_with_an_owl():
    return "the cat saw . the dog saw the hen . the cat the owl"


@mutant("1.1", "saw is always followed by the", says="gets 1/8, wanted 1/16")
def text_always_the():
    return "the cat . the dog saw the hen . the cat"


@mutant("1.1", "the dog sees nothing", says="gets 0, wanted 1/16.*saw after dog 0")
def text_blind_dog():
    return "the cat saw the hen saw . the dog . the cat"


@mutant("1.1", "the hen may see the dog", says="shall be impossible")
def text_seeing_hen():
    return "the dog saw the hen saw . the cat . the cat"


@mutant("1.1", "too long", says="and 16 is the limit")
def text_too_long():
    return "the cat saw . the dog saw the hen . the cat " + ". " * 8


@mutant("1.1", "the stops stuck to the words", says="put a space between")
def text_stuck_stops():
    return "the cat saw. the dog saw the hen. the cat. "


@mutant("1.1", "a list of words", says="write one text")
def text_as_list():
    return "the cat saw . the dog saw the hen . the cat".split()


@mutant("1.1", "a capital at the beginning", says="'The' and 'the' are two different words")
def text_with_capital():
    return "The cat saw . the dog saw the hen . the cat"
