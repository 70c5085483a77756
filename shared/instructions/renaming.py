"""Other people and other things in the same story, with the same facts."""

from __future__ import annotations

import re
from dataclasses import replace

from shared.instructions import words
from shared.instructions.draw import Content, Draw
from shared.stories.world import GIRLS

# Where the story world's tellers name a thing that is nobody's: it must stay what it is.
SCENERY = re.compile(
    r"straw hat|clock struck|bell rang|torn net|in a net|heavy stone|a big box|this box|the box was"
    r"|(?:In h\w+|'s) basket|On a rope|by boat|a coin, and|a map\b|old (?:book|bottle) they"
    r"|to whistle"
)


def renamed(content: Content, draw: Draw) -> Content:
    """The same content with names and things of the draw for those of its story.

    Girls stay girls. A thing stays what it is if the text has its plural, or its noun as scenery.
    """
    text = f"{content.input}\n{content.answer}"
    girls, boys = (iter(draw.sample(pool, len(pool))) for pool in (draw.girls, draw.boys))
    swap = {name: next(girls if name in GIRLS else boys) for name in content.people}
    scenery = " ".join(SCENERY.findall(text))
    for noun, new in zip(
        content.things, draw.sample(draw.things, len(content.things)), strict=True
    ):
        if new not in text and noun not in scenery and words.plural(noun) not in text:
            swap[noun] = new
    pattern = re.compile(rf"\b(?:{'|'.join(swap)})\b")

    def change(text: str) -> str:
        return pattern.sub(lambda found: swap[found[0]], text)

    return replace(
        content,
        input=change(content.input),
        answer=change(content.answer),
        slots={slot: change(value) for slot, value in content.slots.items()},
        pairs=tuple((change(a), change(b)) for a, b in content.pairs),
        wanted=tuple(map(change, content.wanted)),
        people=tuple(map(change, content.people)),
        things=tuple(map(change, content.things)),
    )
