"""The words that instructions are made of: names, things, verbs, opposites, plurals.

Of the story world's own names and things some are spared: the stories tell of them, but only the
split "new_entities" asks about them. The split "unheard" has names and things that not even the
stories know.
"""

from __future__ import annotations

import re

from shared.stories import world

UNHEARD_GIRLS = (
    *world.NEW_GIRLS,
    *"Imogen Tabitha Saskia Mirabel Philippa Ottilie Yolanda Renata".split(),
)
UNHEARD_BOYS = (
    *world.NEW_BOYS,
    *"Magnus Rupert Quentin Desmond Lorenzo Tobias Ambrose Winston".split(),
)

# All begin with a consonant, so that "a" stays right.
UNHEARD_THINGS = (
    *world.NEW_THINGS,
    *"trumpet ladder magnet rocket thimble parasol kettle necklace suitcase wagon brooch bracelet "
    "cushion xylophone".split(),
)

# Of the stories' own names and things, these stand in no instruction but those of "new_entities".
# Each is one token of the story tokenizer, and the plural of each thing is that token and an "s".
SPARED_GIRLS = ("Ivy", "Clara", "Tess", "Alma", "Ruby")
SPARED_BOYS = ("Hugo", "Felix", "Carl", "Theo", "Luke")
SPARED_THINGS = tuple("lantern shell sled puppet mirror ribbon jug horn belt plate".split())
GIRLS = tuple(name for name in world.GIRLS if name not in SPARED_GIRLS)
BOYS = tuple(name for name in world.BOYS if name not in SPARED_BOYS)
THINGS = tuple(noun for noun in world.THINGS if noun not in SPARED_THINGS)

NAMES = frozenset((*world.GIRLS, *world.BOYS, *UNHEARD_GIRLS, *UNHEARD_BOYS))

# ---- nouns ---------------------------------------------------------------------------------------
IRREGULAR_PLURALS = dict(
    pair.split("-")
    for pair in "child-children man-men woman-women mouse-mice goose-geese foot-feet tooth-teeth "
    "ox-oxen sheep-sheep deer-deer leaf-leaves wolf-wolves shelf-shelves knife-knives loaf-loaves "
    "half-halves calf-calves thief-thieves scarf-scarves elf-elves wife-wives life-lives "
    "potato-potatoes tomato-tomatoes hero-heroes echo-echoes fisherman-fishermen "
    "policeman-policemen grandchild-grandchildren postman-postmen snowman-snowmen".split()
)
MORE_NOUNS = tuple(  # that can be seen or met
    "baby puppy lady fairy pony butterfly lorry fox witch coach ostrich dog cat cow hen duck horse "
    "bird frog snail bee owl pig goat rabbit donkey monkey turkey boy girl teacher farmer sailor "
    "baker king queen fly bus boss child man woman mouse goose ox sheep deer wolf calf thief elf "
    "hero fisherman policeman postman snowman tree flower cloud star wave house "
    "apple pear egg berry cherry peach sandwich loaf potato tomato leaf bush shelf knife dish "
    "glass dress bench watch".split()
)
ABSTRACT_NOUNS = tuple(  # and others, for single words
    "story city party family penny country army diary sky match torch crash class kiss beach "
    "church inch lunch branch eyelash tax wish day road door window chair table hand eye ear nose "
    "friend sister brother aunt uncle tale song game dream stream garden foot tooth half scarf "
    "wife life echo grandchild".split()
)
SPARED = frozenset((*SPARED_GIRLS, *SPARED_BOYS, *SPARED_THINGS))
UNHEARD = frozenset((*UNHEARD_GIRLS, *UNHEARD_BOYS, *UNHEARD_THINGS))


def plural(noun: str) -> str:
    """The plural of a noun.

    >>> plural("box"), plural("baby"), plural("mouse")
    ('boxes', 'babies', 'mice')
    """
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


ENTITIES = NAMES | {form for t in (*world.THINGS, *UNHEARD_THINGS) for form in (t, plural(t))}
"""All names, and all things in singular and plural."""


# ---- verbs, by what follows them -----------------------------------------------------------------
VERBS_TO = tuple(
    "walk march hurry skip race wander return crawl stroll hop dance jump run go come ride "
    "drive fly sail swim".split()
)
VERBS_WITH_THING = tuple(
    "carry drop paint clean mend like love need polish wrap fix move push pull lift wash watch "
    "borrow kick touch use save cover fetch grab drag dry share repair admire want find lose hide "
    "bring take hold keep see buy sell make break catch throw forget show steal draw choose".split()
)
VERBS_IN = tuple(
    "play wait work stay rest live camp shout cook cry sleep sit sing stand read write lie "
    "dig".split()
)
VERBS_ALONE = tuple(
    "laugh smile yawn nod wave sneeze cough blush giggle sigh wink shrug speak win fall "
    "weep".split()
)
IRREGULAR_PASTS = dict(
    pair.split("-")
    for pair in "run-ran go-went come-came ride-rode drive-drove fly-flew swim-swam find-found "
    "lose-lost hide-hid bring-brought take-took hold-held keep-kept see-saw buy-bought sell-sold "
    "make-made break-broke catch-caught throw-threw forget-forgot steal-stole draw-drew "
    "choose-chose sleep-slept sit-sat sing-sang stand-stood "
    "read-read write-wrote lie-lay dig-dug speak-spoke win-won fall-fell weep-wept".split()
)
PARTICIPLES = dict(  # where they differ from the past
    pair.split("-")
    for pair in "hide-hidden take-taken see-seen break-broken throw-thrown forget-forgotten "
    "steal-stolen draw-drawn choose-chosen show-shown".split()
)
_CLOSED = re.compile(r"[^aeiou]*[aeiou][bdgklmnprt]")  # one short syllable: "skip", "hug"


def present(verb: str) -> str:
    """What she does: "walks", "carries", "watches"."""
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


def past(verb: str) -> str:
    """What she did: "walked", "carried", "skipped", "took"."""
    if verb in IRREGULAR_PASTS:
        return IRREGULAR_PASTS[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if _CLOSED.fullmatch(verb) else "") + "ed"


def participle(verb: str) -> str:
    """What was done: "carried", "taken"."""
    return PARTICIPLES.get(verb, past(verb))


# ---- opposites, by what they are said of: each word has one opposite, in both directions ---------
def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(tuple(pair.split("-")) for pair in text.split())


OPPOSITES = {
    "thing": _pairs(
        "big-small wet-dry heavy-light hard-soft long-short full-empty clean-dirty old-new "
        "thick-thin wide-narrow strong-weak pretty-ugly hot-cold good-bad sharp-blunt loud-quiet"
    ),
    "place": _pairs("big-small hot-cold near-far loud-quiet full-empty clean-dirty wet-dry"),
    "person": _pairs(
        "happy-sad rich-poor clever-foolish kind-cruel polite-rude busy-idle asleep-awake "
        "early-late right-wrong fast-slow strong-weak first-last"
    ),
    "way": _pairs("quickly-slowly loudly-quietly happily-sadly inside-outside"),
    "deed to a thing": _pairs(
        "opened-closed bought-sold lent-borrowed filled-emptied loved-hated pushed-pulled "
        "broke-mended lost-found packed-unpacked liked-disliked"
    ),
    "deed": _pairs("laughed-cried whispered-shouted arrived-left sat-stood"),
}
OPPOSITE = {a: b for pairs in OPPOSITES.values() for pair in pairs for a, b in (pair, pair[::-1])}
