"""What can happen in a story, and the many ways to say it."""

from __future__ import annotations

from shared.stories.tale import Tale
from shared.stories.world import Person, Place, Thing

SPOTS = (
    "(under|behind|beside|inside|next to|in front of) (an old sack|a wooden box|a pile of leaves|"
    "a broken chair|a stack of bricks|an empty bucket|a heap of stones|a torn net|a barrel|"
    "a rusty pot|a bundle of straw|some planks)"
)
DOING = (
    "(eating an apple|feeding the ducks|tying a shoe|reading a letter|drawing in the sand|"
    "mending a fence|looking at the sky|carrying wood|peeling potatoes|chasing a hen|"
    "counting coins|hanging up shirts|picking flowers|talking to a donkey|blowing bubbles|"
    "sweeping the steps)"
)
ANIMAL = (
    "(crow|goose|cow|frog|bee|squirrel|rooster|mouse|snail|sheep|robin|hedgehog|fox|pigeon|"
    "donkey|beetle)"
)
ANIMALS = ("cat", "dog", "goat", "crow", "monkey", "goose", "puppy", "magpie")


class Beats(Tale):
    """The events that plots are made of. Each changes the world and tells it."""

    # ---- beginnings ----------------------------------------------------------------------------
    def open_at(self, a: Person, p: Place) -> None:
        self.say(
            "One (windy|sunny|grey|cold|warm|misty) (morning|afternoon|evening), {a} "
            "(went|walked|ran|wandered) {p.to}.",
            "It was (the first day of spring|a quiet Sunday|market day|the last day of summer), "
            "and {a} was {p.in}.",
            "{A} liked to (sit|sing|read|whistle|draw|dream) {p.in} "
            "(after school|after breakfast|before supper|on Sundays).",
            "(Early in the morning|After lunch|Before the sun was up|As soon as the rain stopped), "
            "{a} was already {p.in}.",
            '"I am (bored|tired of sitting here|going out)," {said} {a}, and (set off|walked|ran) '
            "{p.to}.",
            "There was once a {a.girl} called {a.n} who lived near {p.the}.",
            "{P.in}, (early|late|long ago|one day), {a} was (waiting|looking around|playing alone|"
            "counting clouds).",
            "~Nobody else was about yet when {a} came {p.to}.",
            a=a,
            p=p,
        )
        self.world.move(a, p)
        self.detail()

    def open_pair(self, a: Person, b: Person, p: Place) -> None:
        self.say(
            "{A} and {b} were (friends|neighbours|cousins), and they were (always|often|usually) "
            "{p.in}.",
            "{A} and {b} were (playing|sitting|working|having a rest) {p.in}.",
            "Every (Monday|Friday|Saturday|summer), {a} met {b} {p.in}.",
            "{A} (had known|could not do without|told everything to) {b}. They (met|played|"
            "spent their days) {p.in}.",
            "One (windy|sunny|grey|cold|warm|misty) (morning|afternoon|evening), {a} and {b} "
            "(went|walked|ran|wandered) {p.to} together.",
            '"Come with me," {a.s} said to {b}, and they (went|walked|ran|wandered) {p.to}.',
            "~You could find {a} and {b} {p.in} on any day of the week.",
            a=a,
            b=b,
            p=p,
        )
        self.world.move(a, p)
        self.world.move(b, p)
        self.detail()

    def has(self, a: Person, x: Thing) -> None:
        self.say(
            "{A} had {x.a}, a present from (Grandma|Grandpa|an aunt|an uncle|a sailor).",
            "{A} had brought {x.a} (from home|along|in a bag|under one arm).",
            "In {a.his} (bag|pocket|hand|basket) {a} (had|carried|kept) {x.a}.",
            "{A} owned {x.a} and (took it everywhere|loved it very much|cleaned it every day|"
            "never left it behind).",
            '"Look what I have!" {said} {a.n}. It was {x.a}(, almost new|, a little scratched|'
            " from the market|).",
            "~Nothing was dearer to {a} than {x.a}.",
            a=a,
            x=x,
        )
        self.world.hand(x, a)
        x.owner = a

    def find(self, a: Person, x: Thing) -> None:
        self.say(
            f"{{A}} found {{x.a}} {SPOTS}.",
            f"Something (shone|lay|was stuck|was hidden) {SPOTS}. It was {{x.a}}, and {{a}} "
            "(picked|took) it up.",
            f'"What is this?" {{said}} {{a.n}}, (pointing|reaching) {SPOTS}. It was {{x.a}}.',
            "{A} (nearly fell over|stepped on|saw|spotted) {x.a} (in the middle of the path|"
            "on the ground|half covered with dust) and picked it up.",
            f"~There, {SPOTS}, {{a}} came upon {{x.a}}.",
            a=a,
            x=x,
        )
        self.world.hand(x, a)
        self.world.events.append(("find", a, x))

    # ---- coming and going ----------------------------------------------------------------------
    def go(self, a: Person, p: Place) -> None:
        self.say(
            "{A} {went} {p.to}.",
            "Then {a} took the (long|short|old|muddy) (road|path) {p.to}.",
            "So {a} {went} {p.to}(, humming a tune| without a word| and did not look back|).",
            "~Off went {a}, all the way {p.to}.",
            a=a,
            p=p,
        )
        self.world.move(a, p)

    def meet(self, a: Person, b: Person, p: Place | None = None) -> None:
        self.say(
            f"There {{a}} met {{b}}, who was {DOING}.",
            f"{{B}} was there too, {DOING}.",
            "{B} came by, (with a cat|with a sleepy dog|with muddy boots|singing loudly|"
            "in a great hurry).",
            f'"(Hello|Good day|Hey), {{a.n}}!" called {{b}}, who was {DOING}.',
            f"~Who should be {DOING} but {{b}}?",
            a=a,
            b=b,
        )
        if p is not None:
            self.world.move(b, p)

    def later(self) -> None:
        """Time passes; a new paragraph."""
        self.paragraph()
        self.say(
            "(The next day|The next morning|On Tuesday|On Thursday|At the weekend), (it rained|"
            "the sun came out|the wind was strong|there was fog everywhere|the birds were loud|"
            "the snow melted|everything was quiet).",
            "(A week|Three days|A month|Two weeks|Ten days|Half a year) (went by|passed).",
            "(That evening|Later that day|After a while|Towards noon), (a bell rang|clouds came up|"
            "the streets grew quiet|it began to snow|it got warm).",
            "~Time passed, as it does.",
        )
        self.detail()

    def detail(self, probability: float = 0.8) -> None:
        """Perhaps something small to hear, see or smell."""
        if not self.chance.maybe(probability):
            return
        self.say(
            f"A {ANIMAL} (called|hopped past|looked on|made a funny noise|went to sleep|"
            "scratched its ear|sat down) (nearby|close to a wall|near the gate|in the shade|"
            "for no reason|under a cart|with one eye open).",
            "The (wind|air|grass|ground|sky|light|path|dust) was (soft|cool|warm|very still|sweet|"
            "strange that day|golden|wet).",
            "Somewhere (a dog barked|a door closed|somebody laughed|a clock struck (two|four|six)|"
            "a horse was walking|a baby cried|a fiddle played|a pot boiled over|a gate creaked).",
            "It smelled of (bread|hay|smoke|soap|apples|wet earth|paint|coffee|roses|fish|cheese|"
            "mint) and (oil|honey|salt|onions|leather|pepper|ink|wool).",
            "(Two|Three|Four|Five|Six) (children|women|men|sailors|farmers|soldiers) (went by|"
            "walked past|sat nearby|stood around), (singing|arguing|laughing|whispering|yawning|"
            "in a hurry|eating pears|telling jokes).",
            "On a (bench|wall|rope|branch|window sill) (hung|lay|stood) (a wet coat|an empty cage|"
            "two red boots|a broom|half a cake|a straw hat|a pair of gloves|somebody's lunch).",
            f"(First|Soon|Now and then) a {ANIMAL} (chased|followed|watched|teased) a {ANIMAL}.",
            "(Far away|In the distance|Close by|Down below) (a ship|a train|a balloon|a cart|a bus|"
            "a flock of birds|a row of lamps) (went past|could be seen|came slowly nearer|"
            "stood still).",
        )

    # ---- wanting, asking, giving ---------------------------------------------------------------
    def want(self, b: Person, x: Thing) -> None:
        self.say(
            "{B} (looked at|stared at|could not forget|dreamed of) {x.the}.",
            '"(I wish I had|I would love|I have always wanted) {y}," {said} {b.n}.',
            "More than anything, {b} wanted {x.the}.",
            "~{B} would have swapped a winter's firewood for {x.the}.",
            b=b,
            x=x,
            y="one like that",
        )

    def ask(self, b: Person, a: Person, x: Thing) -> None:
        self.say(
            '"May I (borrow|hold|try|use) {x}(, please| for a while| until tomorrow|)?" asked {b}.',
            '"Could I have {x.the} (for a day|until Sunday|for an hour)?" {b.s} asked.',
            '"{A.n}, (will you lend me|can I borrow|would you let me use) {x.the}?" {said} {b}.',
            "{B} asked {a.n} (politely|shyly|again and again|in a small voice) for {x.the}.",
            '~"If I promise to be careful, {a.n}, may I use {x.the}?" {b.s} begged.',
            a=a,
            b=b,
            x=x,
        )

    def lend(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            '"Yes, but (be careful|bring it back|keep it dry|do not lose it)," {said} {a.n}, '
            "and {gave} {x.the} to {b.n}.",
            "{A.n} (thought for a moment|nodded|shrugged|smiled), then handed {x.the} to {b.n}.",
            '"(Of course|Why not|All right)," {said} {a.n}. Now {b.n} had {x.the}.',
            "{A.n} lent {b.n} {x.the} (with a smile|right away|for three days|without a word).",
            '~"Here you are, {b.n}," {a.n} said, and let go of {x.the}.',
            a=a,
            b=b,
            x=x,
        )
        self.world.hand(x, b)
        self.world.events.append(("give", a, x, b))

    def give(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            "{A.n} {gave} {x.the} to {b.n}(, to keep| with a bow|, as a surprise| without a word"
            "|).",
            '"(This is for you|Take it|You should have it|It is yours now), {b.n}," {said} {a.n}, '
            "and held out {x.the}.",
            "{A.n} put {x.the} into {b.n}'s (hands|bag|lap|basket).",
            "So {a.n} handed {x.the} to {b.n}(, (proudly|quickly|gladly|gently)|).",
            "~Into {b.n}'s arms went {x.the}, a gift from {a.n}.",
            a=a,
            b=b,
            x=x,
        )
        self.world.hand(x, b)
        self.world.events.append(("give", a, x, b))

    def refuse(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            '"No," {said} {a.n}. "{X} is (mine|too precious|not a toy|only for me)."',
            '"(Not today|Never|Ask somebody else), {b.n}," {said} {a.n}, and held on to {x.the}.',
            "{A.n} (shook {a.his} head|turned away|frowned) and kept {x.the}.",
            '~"I would rather not, {b.n}," {a.n} answered.',
            a=a,
            b=b,
            x=x,
        )

    def trade(self, a: Person, b: Person, x: Thing, y: Thing) -> None:
        self.say(
            "So {a.n} {gave} {x.the} to {b.n} and got {y.the} for it.",
            "They (swapped|traded): {a.n} took {y.the}, and {b.n} took {x.the}.",
            '"(Deal|Agreed|Done)," {said} {b.n}. {A.n} now had {y.the}, and {b.n} had {x.the}.',
            "~{X} went to {b.n}, {y.the} went to {a.n}, and they shook hands on it.",
            a=a,
            b=b,
            x=x,
            y=y,
        )
        self.world.hand(x, b)
        self.world.hand(y, a)
        self.world.events.append(("trade", a, x, b, y))

    def ask_back(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            '"{B.n}, do you still have my {x.bare}?" asked {a.n}.',
            '"I would like my {x.bare} back, {b.n}," {said} {a.n}.',
            "{A.n} (went|came|ran) to {b.n} and asked for {x.the}.",
            '~"About that {x.bare}, {b.n}," {a.n} began.',
            a=a,
            b=b,
            x=x,
        )

    def give_back(self, b: Person, a: Person, x: Thing) -> None:
        self.say(
            '"Here it is," {said} {b.n}, and {a.n} had {x.the} again.',
            "{B.n} (gave|handed|brought) {x.the} back to {a.n}(, (clean|dry|polished|safe)|).",
            '"Thank you for lending it to me, {a.n}," {said} {b.n}, and gave {x.the} back.',
            "Then {b.n} returned {x.the} to {a.n}(, with an apple on top| in a paper bag|).",
            "~{X} found its way back from {b.n} to {a.n}.",
            a=a,
            b=b,
            x=x,
        )
        self.world.hand(x, a)
        self.world.events.append(("give", b, x, a))

    def thank(self, b: Person, a: Person) -> None:
        self.say(
            '"(Thank you|Thanks|How kind you are|You are the best), {a.n}!" {said} {b.n}.',
            "{B.n} (thanked|hugged|smiled at|shook hands with) {a.n}.",
            '"I will never forget this," {b.n} told {a.n}.',
            '~"That was good of you, {a.n}," {b.n} said.',
            a=a,
            b=b,
        )

    # ---- losing, looking, hiding ---------------------------------------------------------------
    def lose(self, a: Person, x: Thing) -> None:
        self.say(
            "But (on the way home|that night|when {a.s} looked again|a little later), {x.the} was "
            "gone.",
            "Then {a} (dropped|lost|forgot) {x.the} (somewhere|on the way|without noticing).",
            '"Oh no! Where is {x}?" cried {a.n}.',
            "~When it was time to go, {a.n} could not see {x.the} anywhere.",
            a=a,
            x=x,
        )
        self.world.put(x, None)
        self.world.events.append(("lose", a, x))

    def search(self, a: Person) -> None:
        self.say(
            "{A} looked (under the table|behind every tree|in all the corners|up and down the "
            "street|in every bag), but found nothing but (dust|an old shoe|a spider|two nails).",
            "{A} (searched|looked) (for an hour|until it got dark|everywhere|high and low).",
            '"Think, think," {a.s} (said|muttered|whispered). "Where was I (today|this morning)?"',
            "~Not a corner did {a} leave unsearched.",
            a=a,
        )

    def ask_seen(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            '"{B.n}, have you seen my {x.bare}?" asked {a.n}.',
            '"My {x.bare} is (gone|missing|lost)," {a.s} told {b}.',
            "{A} asked {b} about {x.the}.",
            '~"You have not come across {x.a}, {b.n}, have you?" {a.n} asked.',
            a=a,
            b=b,
            x=x,
        )

    def hide(self, a: Person, x: Thing, p: Place) -> None:
        self.say(
            f"{{A}} hid {{x.the}} {{p.in}}, {SPOTS}.",
            "{A} carried {x.the} {p.to} and buried it (deep|under a tree|before anyone came).",
            f"{{A}} put {{x.the}} {SPOTS} {{p.in}}(, where nobody would look|).",
            "~Where did {a} leave {x.the}? {P.in}, of all places.",
            a=a,
            x=x,
            p=p,
        )
        self.world.put(x, p)
        self.world.events.append(("hide", a, x, p))

    def unearth(self, b: Person, x: Thing, p: Place) -> None:
        """Find what was hidden or lost at a place."""
        self.say(
            "{B} looked {p.in} and found {x.the} (at once|after a while|at last).",
            "And there it was: {b} found {x.the} {p.in}.",
            '"I have it!" called {b}. {X} had been {p.in} all the time.',
            "~{P.in}, {b} laid hands on {x.the}.",
            b=b,
            x=x,
            p=p,
        )
        self.world.hand(x, b)
        self.world.events.append(("find", b, x))

    def left_at(self, a: Person, x: Thing, p: Place) -> None:
        self.say(
            "{A} (left|forgot) {x.the} {p.in}.",
            "When {a.s} went home, {x.the} (stayed|was left) behind {p.in}.",
            "{A} put {x.the} down {p.in} and (forgot about it|walked away|did not think of it "
            "again).",
            "~{X} was still {p.in} when {a} was already at home.",
            a=a,
            x=x,
            p=p,
        )
        self.world.put(x, p)
        self.world.events.append(("leave", a, x, p))

    def take(self, b: Person, a: Person, x: Thing) -> None:
        self.say(
            "When {a.n} was not looking, {b.n} took {x.the}.",
            "{B.n} (quietly|quickly|secretly) took {x.the} from {a.n}'s (bag|table|room|basket).",
            "While {a.n} (slept|was busy|talked to the baker), {b.n} slipped away with {x.the}.",
            "~No sooner was {a.n} gone than {b.n} had {x.the} under {b.his} coat.",
            a=a,
            b=b,
            x=x,
        )
        self.world.hand(x, b)
        self.world.events.append(("take", b, x, a))

    def sorry(self, b: Person, a: Person) -> None:
        self.say(
            '"I am sorry, {a.n}," {said} {b.n}(. "I (was wrong|did not think|will make it up to '
            'you)."|.)',
            "{B.n} (blushed|looked at the floor|began to cry) and told {a.n} (everything|the truth|"
            "what had happened).",
            '"(Please forgive me|It was my fault|I feel bad about it)," {b.n} told {a.n}.',
            '~"Can you ever forgive me, {a.n}?" {b.n} asked.',
            a=a,
            b=b,
        )

    def forgive(self, a: Person, b: Person) -> None:
        self.say(
            '"(Never mind|It is all right|Do not worry), {b.n}," {said} {a.n}.',
            "{A.n} (forgave|could not be angry with|laughed and hugged) {b.n}.",
            '"Thank you for (telling me|being honest)," {said} {a.n} to {b.n}.',
            '~"Let us forget about it, {b.n}," {said} {a.n}.',
            a=a,
            b=b,
        )

    def animal_takes(self, animal: str, x: Thing) -> None:
        self.say(
            "Suddenly a {n} (jumped up|ran past|came along) and (snatched|stole|grabbed) {x.the}.",
            "A (cheeky|hungry|young) {n} took {x.the} and (ran off|was gone).",
            "~Before anyone could move, a {n} had made off with {x.the}.",
            n=animal,
            x=x,
        )
        self.world.put(x, None)

    def breaks(self, b: Person, x: Thing) -> None:
        self.say(
            "{B} (slipped|tripped|sneezed), and {x.the} (broke|cracked|fell apart).",
            '"Careful!" (said a voice|somebody called), but it was too late: {b} had broken '
            "{x.the}.",
            "(Crack|Snap|Crash)! {B} had (stepped|sat) on {x.the}.",
            "~With a sad little sound, {x.the} came apart in {b.n}'s hands.",
            b=b,
            x=x,
        )

    def mend(self, c: Person, x: Thing) -> None:
        self.say(
            "{C} (mended|fixed|repaired) {x.the} with (glue|string|wire|a nail|a needle and "
            "thread).",
            'It took {c} (an hour|all night|two days) to mend {x.the}. "As good as new!" {c.he} '
            "said.",
            "~With glue on {c.his} nose, {c.n} put {x.the} together again.",
            c=c,
            x=x,
        )

    # ---- talking -------------------------------------------------------------------------------
    def tell_where(self, b: Person, a: Person, x: Thing, p: Place) -> None:
        self.say(
            '"{X} is {p.in}," {b.s} told {a.n}.',
            '"I saw {x} {p.in}, {a.n}," {said} {b}.',
            '"Look {p.in}, {a.n}," {said} {b}. "That is where {x.the} is."',
            '~"Try {p.the}, {a.n}," {b.s} said.',
            a=a,
            b=b,
            x=x,
            p=p,
        )

    def tell_who(self, b: Person, a: Person, x: Thing) -> None:
        self.say(
            '"{H.n} has it," {b.s} told {a.n}.',
            '"Ask {h.n}, {a.n}," {said} {b}. "{H.he} has {x.the}."',
            '"I think {h.n} has {x.the}," {said} {b}.',
            '~"Go and see {h.n}, {a.n}," {b.s} said.',
            a=a,
            b=b,
            h=x.holder,
            x=x,
        )

    def promise(self, b: Person, a: Person) -> None:
        self.say(
            '"I promise," {said} {b.n}.',
            '"You can count on me, {a.n}," {said} {b.n}.',
            "{B.n} {gave} {a.n} {b.his} word.",
            '~"Cross my heart, {a.n}," {said} {b.n}.',
            a=a,
            b=b,
        )

    def play(self, a: Person, b: Person, x: Thing) -> None:
        self.say(
            "They played with {x.the} (all afternoon|until supper|till the moon came out).",
            "{A} and {b} took turns with {x.the}, (laughing|shouting|singing) all the time.",
            "First {a} had a turn with {x.the}, then {b}.",
            "~What games {a} and {b} invented with {x.the}!",
            a=a,
            b=b,
            x=x,
        )

    def feel(self, z: Person, feeling: str, cause: str, **roles) -> None:
        """Tell a feeling and its cause; the cause is remembered as the answer to 'why'."""
        words = {
            "happy": "(happy|glad|pleased|full of joy)",
            "sad": "(sad|unhappy|close to tears|miserable)",
            "angry": "(angry|cross|furious|very upset)",
            "proud": "(proud|very proud)",
            "afraid": "(afraid|scared|frightened)",
            "jealous": "(jealous|a little jealous)",
        }[feeling]
        begin = len(self.text)
        self.say(
            f"{{Z}} was {words} because {cause}.",
            f"{{Z}} felt {words}, because {cause}.",
            f"Because {cause}, {{z.s}} was {words}.",
            **{"a": z, **roles, "z": z},
        )
        reason = self.text[begin:].split("ecause ", 1)[1].rstrip(".")
        if "Because" in self.text[begin:]:
            reason = reason[: reason.rindex(", ")]
        self.fact("why", f"{z.name} {feeling}", f"because {reason}")

    # ---- endings -------------------------------------------------------------------------------
    def end(self, *people: Person) -> None:
        """Close the story; more often than not by saying who has what."""
        held = [x for x in self.world.things if x.holder is not None and x.holder.name]
        self.paragraph()
        if held and self.chance.maybe(0.75):
            x = self.chance.pick(held)
            self.say(
                "(In the end|And so|After all that), {x.the} (belonged to|stayed with|was with) "
                "{h.answer}.",
                "Who had {x.the} now? It was {h.answer}.",
                "And if you ever look for {x.the}, ask {h.answer}.",
                "That night, {x.the} lay (beside|under|next to) the bed of {h.answer}.",
                '"Who has {x.the}?" (asked Grandma|asked Grandpa|somebody asked) at supper. '
                '"{H.answer} has it."',
                "~Should anyone want {x.the}, it is kept by {h.answer}.",
                x=x,
                h=x.holder,
            )
        if self.chance.maybe(0.5):
            a = people[0]
            b = people[1] if len(people) > 1 else None
            closings = [
                "{A} (slept well|smiled|laughed a lot|sang|dreamed) (all night|that night|"
                "until morning).",
                "It had been (a good|a long|an odd|a fine|a busy) day for {a}.",
                '"(What a day|Well, well|Fancy that)!" {said} {a}.',
                "~So ended a day that {a} would remember.",
            ]
            if b is not None:
                closings += [
                    "{A} and {b} (walked|skipped|raced) home (together|hand in hand|in the dark|"
                    "under the stars).",
                    "{A} and {b} were (still|always|now) friends(, and that was what mattered|).",
                    "Then {b} and {a} (had soup|ate pancakes|drank cocoa|shared a pie) together.",
                ]
            p = self.world.where.get(id(a))
            if p is not None and p.noun:
                closings += [
                    "{A} (left|said goodbye to|stayed near|came home from|never forgot) {p.the}.",
                    "{P.in} it (grew dark|was time for bed|was quiet again).",
                ]
            self.say(*closings, a=a, b=b, p=p)
        elif not self.probes:
            self.say(
                "And that was that.",
                "Some days are like that.",
                "There is always (tomorrow|another day).",
                "~Here the story stops.",
            )

    def close_facts(self) -> None:
        """Facts that the final state of the world makes certain."""
        for x in self.world.things:
            if x.noun and x.holder is not None and x.holder.name:
                self.fact("who_has", x.noun, x.holder.name)
            if x.noun and x.place is not None and x.place.noun:
                self.fact("where_is", x.noun, x.place.noun)
        for event in self.world.events:
            if event[0] == "find":
                self.fact("who_found", event[2].noun, event[1].name)
            elif event[0] == "give":
                self.fact("who_gave", f"{event[2].noun} to {event[3].name}", event[1].name)
