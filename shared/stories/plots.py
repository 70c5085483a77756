"""The plot shapes: what can happen to people, things and places in this world.

Each plot is a function of a `Beats`; its name is the plot's name. `PLOTS` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.stories.beats import ANIMALS, Beats
from shared.stories.school import SCHOOL

Plot = Callable[[Beats], None]
PLOTS: list[Plot] = []


def plot(function: Plot) -> Plot:
    PLOTS.append(function)
    return function


# ---- finding -----------------------------------------------------------------------------------
@plot
def finders_keepers(t: Beats) -> None:
    a, p, x = t.person(), t.place(), t.thing()
    t.open_at(a, p)
    t.detail()
    t.find(a, x)
    t.say(
        '"Whose {x.bare} is this?" {a.s} called, but nobody answered.',
        "{A} asked (everyone|all the neighbours), but nobody had lost {x.a}.",
        "{A} waited (until dark|for an hour), but nobody came for {x}.",
        a=a,
        x=x,
    )
    t.feel(a, "happy", "now {x.the} had a home", x=x)
    t.end(a)


@plot
def found_and_returned(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.find(a, x)
    t.detail()
    t.meet(a, b, p)
    t.say(
        '"That is my {x.bare}!" {b.s} said. "I lost it (yesterday|last week|in the storm)."',
        '"My {x.bare}!" cried {b}. "I looked for it everywhere."',
        '{B} looked worried. "Have you found {x.a}?"',
        a=a,
        b=b,
        x=x,
    )
    t.give(a, b, x)
    t.thank(b, a)
    t.end(b, a)


@plot
def found_by_two(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.find(a, x)
    t.say(
        '"I saw it first!" shouted {b}.',
        '"But I was here before you," {said} {b.n}.',
        "{B} pulled at {x.the} too, and neither let go.",
        b=b,
        x=x,
    )
    if t.chance.maybe(0.5):
        t.say(
            '"Then have it," {said} {a.n}, and {b} (walked off|went home) with {x.the}.',
            "They drew straws. {B} won and got {x.the}.",
            a=a,
            b=b,
            x=x,
        )
        t.world.hand(x, b)
        t.feel(b, "happy", "{x.the} now belonged to {b.him}", b=b, x=x)
    else:
        t.say(
            '"Then you may hold it (on Sundays|at night)," {said} {a.n}, but {a.he} kept {x.the}.',
            "They drew straws. {A} won and kept {x.the}.",
            a=a,
            x=x,
        )
        t.feel(b, "jealous", "{a.n} had {x.the}", a=a, x=x)
    t.end(a, b)


@plot
def treasure_map(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.say(
        "In an old (book|coat|bottle) they (found|saw) a map with a cross {q.in}.",
        '{B} had a map. "The cross is {q.in}," {b.he} said.',
        "A sailor sold them a map for (two|three|four) apples. The cross was {q.in}.",
        b=b,
        q=q,
    )
    t.say(
        "They dug (for an hour|until their hands hurt|deep).",
        "They (walked|ran) there and (counted ten steps|moved a heavy stone).",
    )
    t.unearth(t.chance.pick([a, b]), x, q)
    t.say(
        "It was not gold, (but it was better|but nobody minded).",
        "Nobody knew who had (drawn the map|put it there).",
    )
    t.end(a, b)


@plot
def message_in_bottle(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.say(
        'There was a letter in a tree. "Whoever reads this may keep what lies {p.in}," it said.',
        'An old note lay on the ground. "(Look|Dig) here," it said.',
        p=p,
    )
    t.unearth(a, x, p)
    t.meet(a, b)
    t.say(
        '"I wrote that letter when I was (four|five|six)," {said} {b.n}. "Keep {x.the}, {a.n}."',
        '"So the letter found you, {a.n}," {said} {b}. "I am the one who wrote it."',
        a=a,
        b=b,
        x=x,
    )
    t.thank(a, b)
    t.end(a, b)


# ---- lending -----------------------------------------------------------------------------------
@plot
def lend_and_return(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.ask(b, a, x)
    t.lend(a, b, x)
    t.later()
    t.ask_back(a, b, x)
    t.give_back(b, a, x)
    t.end(a, b)


@plot
def lend_and_forget(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.ask(b, a, x)
    t.lend(a, b, x)
    t.promise(b, a)
    t.later()
    t.ask_back(a, b, x)
    t.say(
        '"Oh! I forgot," {said} {b}. "May I keep it (one more day|a little longer)?"',
        '"I have not finished with it," {b.s} said. "Please wait, {a.n}."',
        a=a,
        b=b,
    )
    t.feel(a, "angry", "{b.n} did not give {x.the} back", b=b, x=x)
    t.end(a, b)


@plot
def lending_chain(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.ask(b, a, x)
    t.lend(a, b, x)
    t.later()
    t.say(
        "{B} met {c} on the (road|stairs|way home).",
        "{C} knocked at {b.n}'s door.",
        b=b,
        c=c,
    )
    t.ask(c, b, x)
    t.lend(b, c, x)
    t.later()
    t.ask_back(a, b, x)
    t.tell_who(b, a, x)
    if t.chance.maybe(0.5):
        t.give_back(c, a, x)
    t.end(a, c)


@plot
def broken_while_lent(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.ask(b, a, x)
    t.lend(a, b, x)
    t.breaks(b, x)
    t.feel(b, "afraid", "{a.n} loved {x.the}", a=a, x=x)
    t.later()
    t.mend(b, x)
    t.give_back(b, a, x)
    t.end(a, b)


@plot
def owned_up(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.ask(b, a, x)
    t.lend(a, b, x)
    t.detail()
    t.breaks(b, x)
    t.sorry(b, a)
    t.forgive(a, b)
    t.end(a, b)


@plot
def refused_then_shared(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.ask(b, a, x)
    t.refuse(a, b, x)
    t.feel(b, "sad", "{a.n} would not share {x.the}", a=a, x=x)
    t.detail()
    t.say(
        "{A} saw {b.his} face and was (sorry|ashamed).",
        '"It is no fun alone," {a.s} said at last.',
        a=a,
        b=b,
    )
    t.play(a, b, x)
    t.end(a, b)


@plot
def lent_two_things(t: Beats) -> None:
    (a, b, c), p, (x, y) = t.people(3), t.place(), t.things(2)
    t.open_at(a, p)
    t.has(a, x)
    t.say(
        "{A} also had {y.a}.",
        "And there was {y.a} (too|as well), {a.n}'s favourite thing.",
        a=a,
        y=y,
    )
    t.world.hand(y, a)
    t.lend(a, b, x)
    t.lend(a, c, y)
    t.later()
    if t.chance.maybe(0.5):
        t.ask_back(a, b, x)
        t.give_back(b, a, x)
    else:
        t.ask_back(a, c, y)
        t.give_back(c, a, y)
    t.end(a, b)


# ---- giving ------------------------------------------------------------------------------------
@plot
def birthday(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.say(
        "It was {a.n}'s birthday, (and there was cake|but it rained|and everyone came).",
        '"Happy birthday, {a.n}!" (called everybody|sang the whole street).',
        "(Today|That day) {a} was (six|seven|eight|nine|ten) years old.",
        a=a,
    )
    t.say(
        "{B} came with (a big box|a small parcel|something round in paper). In it was {x.a}.",
        '"Open it," {said} {b.n}. In the (paper|box) was {x.a}.',
        b=b,
        x=x,
    )
    t.world.hand(x, b)
    t.give(b, a, x)
    t.thank(a, b)
    if t.chance.maybe(0.5):
        t.say("Then they all went {p.to}.", "{P.in}, they (danced|sang|ran races).", p=p)
    t.end(a, b)


@plot
def gift_passed_on(t: Beats) -> None:
    (a, b, c), x = t.people(3), t.thing()
    t.has(a, x)
    t.meet(a, b)
    t.feel(b, "sad", "{b.he} had nothing to play with", b=b)
    t.give(a, b, x)
    t.later()
    t.say(
        "{B} (visited|ran into|saw) {c}, who was (ill|alone|new in town|crying).",
        "{C} was in bed with a cold, and {b} came to visit.",
        b=b,
        c=c,
    )
    t.give(b, c, x)
    t.thank(c, b)
    t.end(c, b)


@plot
def moving_away(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.say(
        '"We are moving away (tomorrow|on Monday|next week)," {said} {a.n}.',
        "But {a.n}'s family was leaving (for the city|for another country|by boat).",
        a=a,
    )
    t.feel(b, "sad", "{a.n} was going away", a=a)
    t.say(
        '{A.n} had {x.a}. "(So that you remember me|So that you do not forget me)," {a.he} said.',
        "From {a.his} bag {a.n} took {x.a}.",
        a=a,
        x=x,
    )
    t.world.hand(x, a)
    t.give(a, b, x)
    t.end(b, a)


@plot
def reward(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.meet(a, b, p)
    t.say(
        '"Can you help me (carry this|lift this box|catch my goat|wash the windows)?" asked {b.n}.',
        "{B.n} could not (lift a sack|reach the top shelf|open the gate) alone.",
        b=b,
    )
    t.say(
        "{A} (helped|worked|pulled and pushed) (until evening|for an hour|without a rest).",
        '"Of course," {said} {a.n}, and (soon|in no time|bit by bit) it was done.',
        a=a,
    )
    t.say(
        '"Good work," {said} {b.n}, and (brought|fetched) {x.a}.',
        "{B.n} (opened a drawer|went inside) and came back with {x.a}.",
        b=b,
        x=x,
    )
    t.world.hand(x, b)
    t.give(b, a, x)
    t.end(a, b)


@plot
def secret_gift(t: Beats) -> None:
    (a, b, c), x = t.people(3), t.thing()
    t.say(
        "(On Monday|One morning|After school), {a} found {x.a} on the (doorstep|desk|window sill).",
        "Somebody had (left|put) {x.a} on {a.n}'s (doorstep|desk|window sill).",
        a=a,
        x=x,
    )
    t.world.hand(x, a)
    t.say(
        '"Was it you?" {a.s} asked {b}. But {b.n} (shook {b.his} head|knew nothing|only smiled).',
        "{A} thought it was from {b}, but it was not.",
        a=a,
        b=b,
    )
    t.detail()
    t.say(
        '"It was me," {c.s} (said|whispered) (at last|one day). "I wanted to surprise you, {a.n}."',
        "It was {c} who had left it there, (because {a.n} had been kind|for no reason at all).",
        a=a,
        c=c,
    )
    t.fact("who_gave", f"{x.noun} to {a.name}", c.name)
    t.thank(a, c)
    t.end(a, c)


@plot
def wrong_size_gift(t: Beats) -> None:
    (a, b), (x, y) = t.people(2), t.things(2)
    t.say(
        "Grandma gave {x.a} to {a} and {y.a} to {b}.",
        "There was {x.a} for {a} and {y.a} for {b}.",
        a=a,
        b=b,
        x=x,
        y=y,
    )
    t.world.hand(x, a)
    t.world.hand(y, b)
    t.feel(a, "sad", "{a.he} wanted {y.the} more", y=y)
    t.detail()
    if t.chance.maybe(0.6):
        t.trade(a, b, x, y)
        t.say("Then both were (happy|content|pleased).", "Grandma (laughed|only winked).")
    else:
        t.refuse(b, a, y)
    t.end(a, b)


@plot
def thank_you_present(t: Beats) -> None:
    (a, b), p, (x, y) = t.people(2), t.place(), t.things(2)
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.want(b, x)
    t.give(a, b, x)
    t.later()
    t.say(
        "{B} came to {a.n} with {y.a}.",
        '"I made something for you, {a.n}," {said} {b.n}. It was {y.a}.',
        a=a,
        b=b,
        y=y,
    )
    t.world.hand(y, b)
    t.give(b, a, y)
    t.end(a, b)


# ---- trading -----------------------------------------------------------------------------------
@plot
def fair_trade(t: Beats) -> None:
    (a, b), p, (x, y) = t.people(2), t.place(), t.things(2)
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.has(b, y)
    t.want(b, x)
    t.trade(a, b, x, y)
    t.end(a, b)


@plot
def trade_regretted(t: Beats) -> None:
    (a, b), p, (x, y) = t.people(2), t.place(), t.things(2)
    t.open_pair(a, b, p)
    t.has(a, x)
    t.has(b, y)
    t.trade(a, b, x, y)
    t.later()
    t.feel(a, "sad", "{a.he} missed {x.the}", x=x)
    t.ask_back(a, b, x)
    if t.chance.maybe(0.5):
        t.trade(b, a, x, y)
    else:
        t.refuse(b, a, x)
    t.end(a, b)


@plot
def trading_up(t: Beats) -> None:
    (a, b, c), p, (x, y, z) = t.people(3), t.place(), t.things(3)
    t.open_at(a, p)
    t.find(a, x)
    t.say("Along came {b} with {y.a}.", "{B} was selling {y.a}.", b=b, y=y)
    t.world.hand(y, b)
    t.trade(a, b, x, y)
    t.detail()
    t.say("Then {c} came with {z.a}.", "{C} had {z.a} and was (bored|tired) of it.", c=c, z=z)
    t.world.hand(z, c)
    t.trade(a, c, y, z)
    t.end(a, c)


@plot
def market_stall(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.say(
        "{A} had a (stall|table|cart) at the market and sold (apples|eggs|honey|pots|old things).",
        "On market day, {a} (shouted|called) louder than (anyone|all the others).",
        a=a,
    )
    t.say("Among them was {x.a}.", "The best thing there was {x.a}.", x=x)
    t.world.hand(x, a)
    t.say(
        '"How much for {x.the}?" asked {b}. "(Two|Three|Four|Five|Six) coins," {said} {a.n}.',
        '"Is {x.the} for sale?" asked {b}. "For a song," {said} {a.n}. So {b} sang.',
        a=a,
        b=b,
        x=x,
    )
    if t.chance.maybe(0.6):
        t.say(
            "{B.n} paid and (walked|ran) off with {x.the}.",
            "{A.n} wrapped {x.the} in paper and {b.n} took it home.",
            a=a,
            b=b,
            x=x,
        )
        t.world.hand(x, b)
    else:
        t.say(
            '"That is not enough," {said} {a.n}, and put {x.the} back.',
            "{B.n} (sighed|turned the pockets out) and left without {x.the}.",
            a=a,
            b=b,
            x=x,
        )
    t.end(b, a)


# ---- losing and looking ------------------------------------------------------------------------
@plot
def lost_and_told(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.lose(a, x)
    t.search(a)
    t.meet(a, b)
    t.ask_seen(a, b, x)
    t.tell_where(b, a, x, q)
    t.go(a, q)
    t.unearth(a, x, q)
    t.end(a, b)


@plot
def left_behind(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.left_at(a, x, p)
    t.detail()
    if t.chance.maybe(0.5):
        t.go(b, p)
        t.unearth(b, x, p)
        t.give_back(b, a, x)
    else:
        t.go(a, q)
        t.say(
            '"My {x.bare}!" {a.s} said. "It is still {p.in}."',
            "Only then did {a} think of {x.the} {p.in}.",
            a=a,
            x=x,
            p=p,
        )
        t.go(a, p)
        t.unearth(a, x, p)
    t.end(a, b)


@plot
def found_by_a_friend(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.has(a, x)
    t.lose(a, x)
    t.ask_seen(a, b, x)
    t.say(
        '"No," {said} {b.n}, "but I will help you look."',
        "{B.n} (knew nothing|had not seen it), but (came along|put on {b.his} coat).",
        b=b,
    )
    t.go(c, p)
    t.unearth(c, x, p)
    t.give_back(c, a, x)
    t.thank(a, c)
    t.end(a, b)


@plot
def thief_animal(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    animal = t.chance.pick(ANIMALS)
    t.open_at(a, p)
    t.has(a, x)
    t.animal_takes(animal, x)
    t.say(
        "{A} ran after the {n}, but the {n} was faster.",
        '"Come back!" {a.s} (shouted|cried). The {n} did not listen.',
        "{A} (threw a stick|clapped|whistled), but the {n} only looked.",
        a=a,
        n=animal,
    )
    if t.chance.maybe(0.5):
        t.say(
            "{B} (gave the {n} some bread|called softly|sat down and waited), and the {n} let go "
            "of {x.the}.",
            "{B} caught the {n} (by the tail|in a net|at the gate) and took {x.the}.",
            b=b,
            n=animal,
            x=x,
        )
        t.world.hand(x, b)
        t.give_back(b, a, x)
        t.end(a, b)
    else:
        t.say(
            "In the end the {n} (got bored|fell asleep|wanted to play), and {a} took {x.the} back.",
            "The {n} dropped {x.the} at {a.n}'s feet.",
            a=a,
            n=animal,
            x=x,
        )
        t.world.hand(x, a)
        t.end(a)


@plot
def wind_takes_it(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.say(
        "A (gust|storm) came, and {x} (flew|rolled|was blown) all the way {q.to}.",
        "The (wind|stream) carried {x.the} {q.to}.",
        x=x,
        q=q,
    )
    t.world.put(x, q)
    t.say("{B} was {q.in} (just then|that day).", "{Q.in}, {b} looked up.", b=b, q=q)
    t.unearth(b, x, q)
    if t.chance.maybe(0.5):
        t.ask_seen(a, b, x)
        t.give_back(b, a, x)
    else:
        t.say(
            '"It came to me from the sky," {b.s} said, and kept {x.the}.',
            "{B} did not know whose it was and kept it.",
            b=b,
            x=x,
        )
    t.end(b, a)


@plot
def wrongly_accused(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.left_at(a, x, q)
    t.say(
        '"You took my {x.bare}, {b.n}!" {said} {a.n}.',
        '"Give me back my {x.bare}, {b.n}!" shouted {a.n}.',
        a=a,
        b=b,
        x=x,
    )
    t.say(
        '"I did not," {said} {b.n}.',
        '"I never touched it," {b.n} (said|answered).',
        b=b,
    )
    t.feel(b, "angry", "{a.n} did not believe {b.him}", a=a, b=b)
    t.detail()
    t.unearth(a, x, q)
    t.sorry(a, b)
    t.forgive(b, a)
    t.end(a, b)


@plot
def swapped_bags(t: Beats) -> None:
    (a, b), p, (x, y) = t.people(2), t.place(), t.things(2)
    t.open_pair(a, b, p)
    t.say(
        "Each had a brown bag. In {a.n}'s bag was {x.a}, in {b.n}'s was {y.a}.",
        "{A.n} had packed {x.a}, {b.n} had packed {y.a}, and the two bags looked the same.",
        a=a,
        b=b,
        x=x,
        y=y,
    )
    t.say(
        "They took the wrong bags home. Now {a.n} had {y.the} and {b.n} had {x.the}.",
        "At home {a.n} opened the bag, and out came {y.the}! So {b.n} had {x.the}.",
        a=a,
        b=b,
        x=x,
        y=y,
    )
    t.world.hand(x, b)
    t.world.hand(y, a)
    t.later()
    if t.chance.maybe(0.6):
        t.trade(b, a, x, y)
    else:
        t.say(
            '"I like {y.the} better anyway," {said} {a.n}.',
            "They laughed and left it like that: {y.the} with {a.n}, {x.the} with {b.n}.",
            a=a,
            b=b,
            x=x,
            y=y,
        )
    t.end(a, b)


# ---- hiding and taking -------------------------------------------------------------------------
@plot
def hidden_treasure(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.hide(a, x, q)
    t.later()
    t.go(b, q)
    t.unearth(b, x, q)
    if t.chance.maybe(0.5):
        t.say(
            '"That is mine," {said} {a}, who had followed. So {b} gave {x.the} back.',
            "{B} knew at once whose it was and (brought|took) it to {a.n}.",
            a=a,
            b=b,
            x=x,
        )
        t.world.hand(x, a)
    else:
        t.say(
            "{B} told nobody.",
            '"Finders keepers," {b.s} (sang|whispered|said).',
            b=b,
        )
    t.end(b, a)


@plot
def hide_and_guess(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.say(
        '"Close your eyes, {b.n}," {said} {a.n}, and hid {x.the} behind {a.his} back.',
        "{A.n} held {x.the} in one hand and nothing in the other.",
        a=a,
        b=b,
        x=x,
    )
    if t.chance.maybe(0.5):
        t.say(
            '"(Left|Right)!" guessed {b.n}, and it was so. {B.n} got {x.the}.',
            "{B.n} guessed rightly and (won|was given) {x.the}.",
            b=b,
            x=x,
        )
        t.world.hand(x, b)
    else:
        t.say(
            '"(Left|Right)!" guessed {b.n}, but it was wrong. {A.n} kept {x.the}.',
            "{B.n} guessed (twice|three times), always wrongly, and {a.n} kept {x.the}.",
            a=a,
            b=b,
            x=x,
        )
    t.end(a, b)


@plot
def taken_and_sorry(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.meet(a, b, p)
    t.want(b, x)
    t.take(b, a, x)
    t.later()
    t.say(
        "{B} could not (sleep|eat|look at {a.n}).",
        "All day {b} had a (heavy heart|stomach ache).",
        a=a,
        b=b,
    )
    t.sorry(b, a)
    t.give_back(b, a, x)
    t.forgive(a, b)
    t.end(a, b)


@plot
def taken_and_caught(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.take(b, a, x)
    t.ask_seen(a, c, x)
    t.tell_who(c, a, x)
    t.ask_back(a, b, x)
    if t.chance.maybe(0.7):
        t.give_back(b, a, x)
    else:
        t.say(
            '"I do not have it," {b.n} lied, and kept {x.the}.',
            "{B.n} ran away with {x.the}.",
            b=b,
            x=x,
        )
        t.feel(a, "angry", "{b.n} had {x.the} and would not say so", b=b, x=x)
    t.end(a, c)


@plot
def joke(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.take(b, a, x)
    t.hide(b, x, q)
    t.search(a)
    t.say(
        "{B} laughed (so hard that it hurt|behind {b.his} hand|until {a.n} saw it).",
        '"You should see your face, {a.n}!" {said} {b.n}.',
        a=a,
        b=b,
    )
    t.tell_where(b, a, x, q)
    if t.chance.maybe(0.7):
        t.unearth(a, x, q)
    t.end(a, b)


@plot
def buried_for_later(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.hide(a, x, q)
    t.say(
        '"We will dig it up when we are (old|grown|ten)," they said.',
        "They drew a map and tore it in two.",
        "They told nobody, not even (Grandma|Grandpa|the dog).",
    )
    t.end(a, b)


# ---- errands -----------------------------------------------------------------------------------
@plot
def messenger(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.say(
        '"Please take {x.the} to {c.n}," {a.s} said to {b}, and gave it to {b.him}.',
        '"{B.n}, will you bring {x.the} to {c.n} for me?" {a.s} asked, handing it over.',
        a=a,
        b=b,
        c=c,
        x=x,
    )
    t.world.hand(x, b)
    t.promise(b, a)
    t.detail()
    if t.chance.maybe(0.7):
        t.say(
            '"This is from {a.n}," {b.n} said to {c.n}, and handed over {x.the}.',
            "{B.n} (ran|walked) to {c.n}'s house and {gave} {c.n} {x.the} from {a.n}.",
            a=a,
            b=b,
            c=c,
            x=x,
        )
        t.world.hand(x, c)
        t.world.events.append(("give", b, x, c))
        t.thank(c, b)
    else:
        t.say(
            "But {c.n} was not at home, and {b.n} kept {x.the} for the night.",
            "{B.n} (fell asleep|met some friends) on the way and still had {x.the} at sunset.",
            b=b,
            c=c,
            x=x,
        )
    t.end(b, c)


@plot
def two_errands(t: Beats) -> None:
    (a, b, c), (x, y) = t.people(3), t.things(2)
    t.say(
        "Grandpa gave {a} two things: {x.a} for {b} and {y.a} for {c}.",
        '"{X.a} for {b}, and {y.a} for {c}," said Grandma to {a}. "Do not mix them up!"',
        a=a,
        b=b,
        c=c,
        x=x,
        y=y,
    )
    t.detail()
    if t.chance.maybe(0.6):
        first, second = (b, x), (c, y)
        t.give(a, *first)
        t.give(a, *second)
        t.say("Nothing was mixed up.", '"Well done!" they said at home.')
    else:
        t.give(a, b, y)
        t.give(a, c, x)
        t.say(
            "Oh dear! It was the wrong way round.",
            "Only later did {a.n} see the mistake.",
            a=a,
        )
    t.end(a, b)


@plot
def passed_around(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.say(
        "{A}, {b} and {c} sat in a (circle|row) {p.in}.",
        "{P.in}, {a}, {b} and {c} played a game.",
        a=a,
        b=b,
        c=c,
        p=p,
    )
    t.has(a, x)
    t.say(
        "When the music played, they passed {x.the} on.",
        "Whoever had {x.the} had to (sing|tell a joke|hop on one leg).",
        x=x,
    )
    order = [a, b, c]
    t.give(a, b, x)
    if t.chance.maybe(0.7):
        t.give(b, c, x)
        if t.chance.maybe(0.5):
            t.give(c, a, x)
    t.say("Then (the music stopped|it was time to stop).", "Then (the bell rang|supper was ready).")
    t.end(*order)


# ---- contests ----------------------------------------------------------------------------------
@plot
def race(t: Beats) -> None:
    (a, b), (p, q), x = t.people(2), [t.place(), t.place()], t.thing()
    t.open_pair(a, b, p)
    t.say(
        '"Who is first {q.to}?" (asked|called) {a}. The prize was {x.a}.',
        "They raced {q.to} for {x.a}.",
        a=a,
        q=q,
        x=x,
    )
    t.say(
        "{A} was in front, then {b}, then {a} again.",
        "{B} started (too early|badly), and {a} (stumbled|lost a shoe).",
        a=a,
        b=b,
    )
    winner, loser = (a, b) if t.chance.maybe(0.5) else (b, a)
    t.say(
        "But {w} won and got {x.the}.",
        "It was {w} who got there first and took {x.the}.",
        w=winner,
        x=x,
    )
    t.world.hand(x, winner)
    t.feel(loser, "sad", "{w.n} was faster", w=winner)
    t.end(winner, loser)


@plot
def contest(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.say(
        "There was a (singing|baking|drawing|jumping) contest {p.in}. The prize was {x.a}.",
        "Who could (sing loudest|jump highest|bake the best bread)? {P.in} there was {x.a} to win.",
        p=p,
        x=x,
    )
    t.say(
        "{A} went first, then {b}, and {c} was last.",
        "{A}, {b} and {c} all wanted to win.",
        a=a,
        b=b,
        c=c,
    )
    t.detail()
    winner = t.chance.pick([a, b, c])
    t.say(
        "{W} was the best and won {x.the}.",
        '"The winner is {w.n}!" said the (teacher|baker|captain), and {gave} {w.him} {x.the}.',
        w=winner,
        x=x,
    )
    t.world.hand(x, winner)
    t.feel(winner, "proud", "everyone clapped")
    t.end(winner)


@plot
def bet(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.has(a, x)
    bets = {
        "it will (rain|snow) tomorrow": True,
        "I can (climb that tree|stay awake all night|eat ten pancakes)": True,
    }
    wording = t.chance.pick(tuple(bets))
    t.say(
        '"I bet {x.the} that {s}," {a.s} said to {b}.',
        '"{B.n}, you get {x.the} if it is not true that {s}," {said} {a}.',
        a=a,
        b=b,
        x=x,
        s=wording,
    )
    t.later()
    if t.chance.maybe(0.5):
        t.say(
            "{A.n} lost. {B.n} got {x.the}.",
            'It was not so. "A bet is a bet," {said} {a.n}, and {gave} {x.the} to {b.n}.',
            a=a,
            b=b,
            x=x,
        )
        t.world.hand(x, b)
        t.world.events.append(("give", a, x, b))
    else:
        t.say(
            "{A.n} was right and kept {x.the}.",
            'It was so. "You were lucky, {a.n}," {said} {b.n}.',
            a=a,
            b=b,
            x=x,
        )
    t.end(a, b)


# ---- mending and making ------------------------------------------------------------------------
@plot
def mended_by_friend(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.breaks(a, x)
    t.feel(a, "sad", "{x.the} was broken", x=x)
    t.say(
        '"{C.n} can mend anything," {said} {b}. So {a} took {x.the} to {c.n}.',
        "{B} (sent|took) {a} to {c}, who had (tools|clever hands|a workshop).",
        a=a,
        b=b,
        c=c,
        x=x,
    )
    t.mend(c, x)
    t.say(
        "{A.n} (paid with two eggs|clapped|could not believe it).",
        '"It is better than before," {said} {a.n}.',
        a=a,
    )
    t.end(a, c)


@plot
def made_together(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.say(
        "They wanted to make something (out of wood|out of paper|for the fair).",
        '"Let us make something," {said} {b}.',
        b=b,
    )
    t.say(
        "{A} (cut|painted|measured), {b} (held|glued|hammered), and in the end they had {x.a}.",
        "After (an hour|two days|a lot of glue), {x.a} stood before them.",
        a=a,
        b=b,
        x=x,
    )
    keeper, other = (a, b) if t.chance.maybe(0.5) else (b, a)
    t.say(
        '"You keep it, {k.n}," {said} {o.n}.',
        "They threw a coin, and {k.n} got {x.the}.",
        k=keeper,
        o=other,
        x=x,
    )
    t.world.hand(x, keeper)
    t.feel(other, "proud", "they had made {x.the} together", x=x)
    t.end(a, b)


@plot
def spring_cleaning(t: Beats) -> None:
    (a, b, c), (x, y) = t.people(3), t.things(2)
    t.say(
        "{A} was cleaning the (attic|cellar|cupboard) and (found|pulled out) {x.a} and {y.a}.",
        '"I do not need these any more," {said} {a}: {x.a} and {y.a}.',
        a=a,
        x=x,
        y=y,
    )
    t.world.hand(x, a)
    t.world.hand(y, a)
    t.give(a, b, x)
    t.detail()
    if t.chance.maybe(0.5):
        t.give(a, c, y)
        t.end(a, b)
    else:
        t.say(
            "But {a.n} kept {y.the} after all.",
            '"This I will keep," {a.n} said of {y.the}.',
            a=a,
            y=y,
        )
        t.end(a, b)


# ---- danger and help ---------------------------------------------------------------------------
@plot
def dark_way_home(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.say(
        "It got dark, and (the path was gone|an owl called|nobody knew the way).",
        "Night came (early|quickly|without stars).",
    )
    t.feel(a, "afraid", "(there was a noise|it was so dark|something moved)")
    t.say(
        '{B.n} had {x.a}. "Hold this, {a.n}," {b.he} said, "and you will not be (lost|afraid)."',
        '"Take {x.a} in your hand, {a.n}," {said} {b.n}. "It always helps me."',
        a=a,
        b=b,
        x=x,
    )
    t.world.hand(x, a)
    t.say(
        "Step by step they (came|found their way) home.",
        "Soon they saw the lights of the village.",
    )
    if t.chance.maybe(0.5):
        t.give_back(a, b, x)
    t.end(a, b)


@plot
def pulled_out(t: Beats) -> None:
    (a, b), x, y = t.people(2), t.thing(), t.place()
    t.open_at(a, y)
    t.has(a, x)
    t.say(
        "Then the (ice|floor|branch) broke, and {a} called for help.",
        "{A} (climbed|leaned) too far and fell into the mud.",
        a=a,
    )
    t.say(
        "{B} (heard it|came running) and pulled {a.him} out.",
        '"Hold on, {a.n}!" called {b}, and pulled with all {b.his} strength.',
        a=a,
        b=b,
    )
    t.thank(a, b)
    if t.chance.maybe(0.6):
        t.give(a, b, x)
    else:
        t.say(
            "Luckily {a.n} still had {x.the}.", "{A.n} was wet, but {a.he} had {x.the}.", a=a, x=x
        )
    t.end(a, b)


@plot
def new_in_school(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.say(
        "{A} was new (in town|at school|in the street) and knew nobody.",
        "On the first day (nobody spoke to|everyone stared at) {a}.",
        a=a,
    )
    t.feel(a, "afraid", "all the faces were strange")
    t.say(
        '"You can sit with me," {said} {b}. "Do you like my {x.bare}?"',
        "{B} came over with {x.a}.",
        b=b,
        x=x,
    )
    t.world.hand(x, b)
    if t.chance.maybe(0.5):
        t.lend(b, a, x)
    else:
        t.play(a, b, x)
    t.end(a, b)


@plot
def promise_kept(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.has(a, x)
    t.say(
        '"When I am (old|big|a captain), you will get {x.the}," {a.s} told {b}.',
        '"One day {x.the} will be yours, {b.n}," {said} {a}.',
        a=a,
        b=b,
        x=x,
    )
    t.say(
        "Years went by(, and nobody spoke of it|).",
        "They (grew up|grew taller|went to different schools).",
        "Many (winters|summers) passed.",
    )
    if t.chance.maybe(0.6):
        t.say("But {a.n} had not forgotten.", "{A.n} kept {a.his} word.", a=a)
        t.give(a, b, x)
    else:
        t.say(
            "But {a.n} had forgotten, and {x.the} stayed in a drawer.",
            "{A.n} still could not part with {x.the}.",
            a=a,
            x=x,
        )
    t.end(b, a)


@plot
def guarded(t: Beats) -> None:
    (a, b, c), p, x = t.people(3), t.place(), t.thing()
    t.open_at(a, p)
    t.has(a, x)
    t.say(
        '"Will you watch {x.the} while I (swim|eat|sleep), {b.n}?" asked {a}.',
        '"Guard {x.the} for me, {b.n}," {said} {a}, and (left|went away).',
        a=a,
        b=b,
        x=x,
    )
    t.world.hand(x, b)
    t.say(
        '{C} came. "Give me {x.the}," {c.he} said.',
        "{C} tried to (buy|steal|borrow) {x.the}.",
        c=c,
        x=x,
    )
    if t.chance.maybe(0.6):
        t.refuse(b, c, x)
        t.give_back(b, a, x)
        t.thank(a, b)
    else:
        t.give(b, c, x)
        t.feel(a, "angry", "{b.n} had given {x.the} away", b=b, x=x)
    t.end(a, c)


@plot
def quarrel(t: Beats) -> None:
    (a, b), p, x = t.people(2), t.place(), t.thing()
    t.open_pair(a, b, p)
    t.has(a, x)
    t.say(
        'They quarrelled. "You always (win|shout|talk)!" {said} {a.n}. '
        '"And you never (listen|share)!" {said} {b.n}.',
        '"I will never speak to you again, {b.n}," {said} {a.n}.',
        a=a,
        b=b,
    )
    t.later()
    t.say(
        "{A.n} stood at {b.n}'s door with {x.the}.",
        "There was a knock. It was {a.n} with {x.the}.",
        a=a,
        b=b,
        x=x,
    )
    t.sorry(a, b)
    if t.chance.maybe(0.6):
        t.give(a, b, x)
    t.forgive(b, a)
    t.end(a, b)


# ---- tales of a few lines --------------------------------------------------------------------
@plot
def whose_is_it(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.say("{A} (had|carried|held|showed) {x.a}.", "There was {a} with {x.a}.", a=a, x=x)
    t.world.hand(x, a)
    t.say(
        '"Is that your {x.bare}, {a}?" asked {b}. "Yes, {b}," {said} {a}, "it is my {x.bare}."',
        '"What a {x.bare}, {a}!" {said} {b}. "(Thank you|I know), {b}," {said} {a}.',
        a=a,
        b=b,
        x=x,
    )
    t.end(a, b)


@plot
def one_each(t: Beats) -> None:
    (a, b), (x, y) = t.people(2), t.things(2)
    t.say(
        "{A} had {x.a}, and {b} had {y.a}.",
        "{A} (took|chose|bought) {x.a}. {B.n} (took|chose|bought) {y.a}.",
        a=a,
        b=b,
        x=x,
        y=y,
    )
    t.world.hand(x, a)
    t.world.hand(y, b)
    if t.chance.maybe(0.3):
        t.trade(a, b, x, y)
    elif t.chance.maybe(0.3):
        t.give(a, b, x)
    t.say(
        "{B.n} looked at {a}, and {a} looked at {b}.",
        "So they went home, {a} and {b}.",
        '"(Goodbye|Good night), {a}," {said} {b}. "(Goodbye|Good night), {b}," {said} {a}.',
        a=a,
        b=b,
    )
    t.end(a, b)


@plot
def hand_to_hand(t: Beats) -> None:
    (a, b, c), x = t.people(3), t.thing()
    t.say("{A} {gave} {x.a} to {b}.", "{B} got {x.a} from {a}.", a=a, b=b, x=x)
    t.world.hand(x, b)
    t.world.events.append(("give", a, x, b))
    if t.chance.maybe(0.6):
        t.say("{B.n} {gave} it to {c}.", "Then {c} got it from {b}.", b=b, c=c)
        t.world.hand(x, c)
        t.world.events.append(("give", b, x, c))
        if t.chance.maybe(0.4):
            t.say("And {c} {gave} it to {a}.", "{C.n} {gave} it back to {b}.", a=a, b=b, c=c)
            back = t.text.rstrip(".").endswith(a.name)
            t.world.hand(x, a if back else b)
            t.world.events.append(("give", c, x, a if back else b))
    t.end(a, b)


@plot
def is_this_yours(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.say("{A} (lost|dropped|was looking for) {x.a}.", a=a, x=x)
    t.say(
        '{B} found it. "Is this your {x.bare}, {a}?" asked {b}. "It is!" {said} {a}.',
        '"{A.n}, here is your {x.bare}," {said} {b}. "(Oh|Thanks), {b}!" {said} {a}.',
        a=a,
        b=b,
        x=x,
    )
    t.world.hand(x, a)
    t.world.events.append(("find", b, x))
    t.end(a, b)


@plot
def where_is_everyone(t: Beats) -> None:
    (a, b), (p, q) = t.people(2), [t.place(), t.place()]
    t.say(
        "{A} was {p.in}, and {b} was {q.in}.",
        "{A} went {p.to}. {B.n} went {q.to}.",
        a=a,
        b=b,
        p=p,
        q=q,
    )
    t.world.move(a, p)
    t.world.move(b, q)
    (lost, there), (other, elsewhere) = t.chance.pick([((a, p), (b, q)), ((b, q), (a, p))])
    t.say(
        '"Where is {a}?" asked Grandma. "{A.n} is {p.in}," {said} Grandpa.',
        "If you want to see {a}, go {p.to}.",
        "Then it rained, and {a} left {p.the}.",
        a=lost,
        p=there,
    )
    if t.chance.maybe(0.5):
        t.say('"And {b}?" "{Q.in}."', "{B.n} stayed {q.in}.", b=other, q=elsewhere)


@plot
def good_morning(t: Beats) -> None:
    a, b = t.people(2)
    greeting = t.chance.pick(("Good morning", "Good evening", "Hello", "Welcome", "Good day"))
    t.say(
        '"{g}, {a}," {said} {b}. "{g}, {b}," {said} {a}.',
        '{B} met {a}. "{g}, {a}!" "{g}, {b}!"',
        a=a,
        b=b,
        g=greeting,
    )
    if t.chance.maybe(0.6):
        x = t.thing()
        t.say('"I like your {x.bare}, {a}," {said} {b}.', "{A.n} had {x.a}.", a=a, b=b, x=x)
        t.world.hand(x, a)
    t.end(a, b)


@plot
def who_is_there(t: Beats) -> None:
    a, b = t.people(2)
    t.say(
        '"Who is there?" asked {a}. "It is me, {b}." "Come in, {b}," {said} {a}.',
        'Knock, knock. "Is that you, {b}?" asked {a}. "Yes, {a}, it is {b}."',
        a=a,
        b=b,
    )
    x = t.thing()
    t.say("{B.n} had {x.a} for {a}.", "{B.n} came in with {x.a} for {a}.", a=a, b=b, x=x)
    t.world.hand(x, b)
    if t.chance.maybe(0.6):
        t.give(b, a, x)
    t.end(a, b)


@plot
def packing(t: Beats) -> None:
    a, (x, y, z) = t.person(), t.things(3)
    t.say(
        "{A} packed {x.a}, {y.a} and {z.a}.",
        "{A} needed {x.a}, {y.a} and {z.a}.",
        a=a,
        x=x,
        y=y,
        z=z,
    )
    for thing in (x, y, z):
        t.world.hand(thing, a)
    t.say(
        "First came {x.the}, then {y.the}, and {z.the} was on top.",
        '"{X}, {y} and {z}," {said} {a}. "That is all."',
        "The heaviest was {x.the}.",
        "{Z} was the last to go in, after {x.the} and {y.the}.",
        a=a,
        x=x,
        y=y,
        z=z,
    )
    t.end(a)


@plot
def calling(t: Beats) -> None:
    (a, b), p = t.people(2), t.place()
    t.say(
        '"{A.n}!" called {b}. "{A.n}, where are you?" "{P.in}, {b}!" called {a}.',
        '"Where is {a}?" asked {b}. But {a} was {p.in} and did not hear {b}.',
        '{B} looked for {a}. "{A.n}!" {said} {b}. "{A.n}!" And there was {a}, {p.in}.',
        a=a,
        b=b,
        p=p,
    )
    t.world.move(a, p)
    t.end(a, b)


@plot
def mine_and_yours(t: Beats) -> None:
    (a, b), x = t.people(2), t.thing()
    t.say(
        '"My {x.bare}!" {said} {a}. "No, my {x.bare}!" {said} {b}.',
        '"I want {x.the}," {said} {a}. "I want {x.the} too," {said} {b}.',
        a=a,
        b=b,
        x=x,
    )
    winner = t.chance.pick([a, b])
    t.say("{W.n} got it.", "{W.n} got {x.the}.", '"Then take it, {w}," they said.', w=winner, x=x)
    t.world.hand(x, winner)
    t.end(a, b)


@plot
def where_to(t: Beats) -> None:
    (a, b), p = t.people(2), t.place()
    t.say(
        '"Where are you going, {a}?" asked {b}. "{P.to}," {said} {a}.',
        '{A} {went} {p.to}. "Is it far {p.to}, {a}?" asked {b}.',
        "{A} was on the way {p.to} and met {b}.",
        a=a,
        b=b,
        p=p,
    )
    t.say(
        "So they {went} {p.to} together, {a} and {b}.",
        '"I will come {p.to} with you, {a}," {said} {b}.',
        "{P.in} they (sang|danced|had a picnic|told stories) until it was dark.",
        '"I was {p.in} (yesterday|last week|this morning)," {said} {b}. "It is nice {p.in}."',
        a=a,
        b=b,
        p=p,
    )
    t.world.move(a, p)
    t.world.move(b, p)
    t.end(a, b)


@plot
def still_there(t: Beats) -> None:
    a, p, x = t.person(), t.place(), t.thing()
    t.say(
        "{A} left {x.a} {p.in}.",
        "{P.in} lay {x.a}. {A.n} had lost it.",
        "{A} had {x.a} and forgot it {p.in}.",
        a=a,
        p=p,
        x=x,
    )
    t.world.put(x, p)
    t.say(
        '"Where is my {x.bare}?" asked {a}. "{P.in}," {said} (Grandma|Grandpa).',
        '"Did you look {p.in}?" asked (Grandma|Grandpa).',
        "{A} came back {p.to} the next day.",
        a=a,
        p=p,
        x=x,
    )
    if t.chance.maybe(0.7):
        t.unearth(a, x, p)
    else:
        t.say("And {p.in} {x} stayed.", "{X} is {p.in} to this day.", p=p, x=x)
    t.end(a)


@plot
def not_there(t: Beats) -> None:
    a, (p, q) = t.person(), [t.place(), t.place()]
    t.say(
        '"Is {a} {p.in}?" "No, {a} is {q.in}."',
        "First {a} was {p.in}, then {q.in}.",
        "{A} {went} {p.to}, and from there {q.to}.",
        a=a,
        p=p,
        q=q,
    )
    t.world.move(a, q)
    t.say(
        "Was it (colder|warmer|nicer|louder) {p.in} or {q.in}? {A} did not know.",
        "{A} liked it better {q.in} than {p.in}.",
        "{A} liked it better {p.in} than {q.in}.",
        "From {q.the}, {a} went back {p.to}.",
        a=a,
        p=p,
        q=q,
    )
    t.end(a)


TINY = (
    whose_is_it,
    one_each,
    hand_to_hand,
    is_this_yours,
    where_is_everyone,
    good_morning,
    who_is_there,
    packing,
    calling,
    mine_and_yours,
    where_to,
    still_there,
    not_there,
)
HARD = (lending_chain, left_behind, trading_up)  # to follow: told less often
PLOTS += SCHOOL


def _weight(plot: Plot) -> float:
    """How often a plot is told: of nineteen stories six have a few lines, three are of school."""
    usual = len(PLOTS) - len(TINY) - len(SCHOOL)
    if plot in TINY:
        return usual * 0.6 / len(TINY)
    if plot in SCHOOL:
        return usual * 0.3 * SCHOOL[plot] / sum(SCHOOL.values())
    return 0.4 if plot in HARD else 1.0


WEIGHTS = [_weight(plot) for plot in PLOTS]
