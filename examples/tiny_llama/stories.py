# Copyright the bisup authors
# SPDX-License-Identifier: Apache-2.0
"""What does the tiny Llama read? Little stories and conversations, written by a seeded grammar.

A template is expanded in two steps: the innermost "[a|b|c]" becomes one of its choices, again and
again, and "{name}" is then filled in. Who a story is about, where they live and what they carry is
drawn once at its beginning and comes back later, so a model must look far behind to predict well.
"""

import random
import re

GIRLS = "Lily Anna Mia Emma Sara Nora Ella Rosa Lucy Zoe Ruby Ivy Clara Maya Tina Jane".split()
BOYS = "Tom Ben Max Sam Leo Jack Finn Tim Oscar Hugo Adam Paul Nick Theo Carl Dan".split()
KINDS = "fox rabbit bear mouse cat dog duck frog owl hedgehog squirrel turtle".split()
TRAITS = "brave kind clever shy funny curious gentle patient quiet cheerful".split()
COLORS = "red blue green yellow white black brown orange pink purple".split()
TOYS = "kite ball boat drum doll wagon puzzle whistle lantern book".split()
THINGS = "key bell map hat scarf basket button coin spoon ring cup feather".split()
FOODS = "apple pear cake cookie carrot plum muffin sandwich berry nut".split()
PLACES = "garden forest kitchen barn market school library meadow valley park cellar yard".split()
HOMES = "lake mill forest river hill sea bakery station tower bridge".split()
HIDING = ["under the bed", "behind the door", "in the tall grass", "on the roof", "inside a box",
          "under the table", "near the old tree", "behind the wall", "in the deep well",
          "on top of the shelf"]
JOBS = "baker farmer teacher doctor painter sailor gardener postman".split()
RELATIVES = "mother father grandmother grandfather uncle aunt".split()
WEATHER = ["sunny", "rainy", "windy", "snowy", "cloudy", "cold", "warm", "foggy"]
SKILLS = ["swim", "sing", "dance", "climb a tree", "ride a bike", "draw a horse", "bake bread",
          "skate", "read", "tie a knot"]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
NUMBERS += "thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
OPPOSITES = [("big", "small"), ("hot", "cold"), ("up", "down"), ("day", "night"), ("old", "new"),
             ("fast", "slow"), ("happy", "sad"), ("wet", "dry"), ("open", "closed"),
             ("full", "empty"), ("hard", "soft"), ("loud", "quiet"), ("left", "right")]
FACTS = [("What color is the sky?", "The sky is blue."), ("What color is grass?", "Grass is"
                                                                                  " green."),
         ("What color is snow?", "Snow is white."), ("What does a cat say?", "A cat says meow."),
         ("What does a dog say?", "A dog says woof."), ("What does a cow say?", "A cow says moo."),
         ("What does a duck say?", "A duck says quack."), ("Where do fish live?", "Fish live in"
                                                                                  " water."),
         ("What do bees make?", "Bees make honey."), ("What do cows give us?", "Cows give us"
                                                                               " milk."),
         ("How many legs does a spider have?", "A spider has eight legs."),
         ("How many legs does a dog have?", "A dog has four legs."),
         ("How many days are in a week?", "There are seven days in a week."),
         ("How many wheels does a bike have?", "A bike has two wheels."),
         ("When does the sun rise?", "The sun rises in the morning."),
         ("What falls from the clouds?", "Rain falls from the clouds."),
         ("Where does a bird sleep?", "A bird sleeps in its nest."),
         ("What do we use to read?", "We use our eyes to read."),
         ("Who are you?", "I am a tiny llama. I tell little stories."),
         ("What is your name?", "My name is Tiny Llama."),
         ("What can you do?", "I can tell stories, count, and answer little questions.")]

INNERMOST = re.compile(r"\[([^\[\]]*)\]")


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    return noun[:-1] + "ies" if noun[-1] == "y" else noun + "s"


class Cast:
    """The people, things and places of one story, drawn once, and the text written so far."""

    def __init__(self, rng):
        self.rng = rng
        girls, boys = rng.sample(GIRLS, 2), rng.sample(BOYS, 2)
        kinds, traits = rng.sample(KINDS, 2), rng.sample(TRAITS, 2)
        colors, places = rng.sample(COLORS, 3), rng.sample(PLACES, 3)
        things = rng.sample(THINGS, 3)
        hidden = rng.sample(HIDING, 3)
        self.fields = {}
        for who, kind, trait in zip("XY", kinds, traits):
            girl = rng.random() < 0.5
            human = rng.random() < 0.4
            he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
            self.fields.update({
                who: (girls if girl else boys).pop(), f"{who}he": he, f"{who}him": him,
                f"{who}his": his, f"{who}He": he.capitalize(), f"{who}trait": trait,
                f"{who}kind": ("girl" if girl else "boy") if human else kind})
        self.fields["a_Ykind"] = article(self.fields["Ykind"])
        toy = f"{colors[0]} {rng.choice(TOYS)}"
        self.fields.update(
            toy=toy, a_toy=article(toy), color=colors[0], food=rng.choice(FOODS),
            thing=f"{colors[1]} {things[0]}", a_thing=article(f"{colors[1]} {things[0]}"),
            thing2=things[1], a_thing2=article(things[1]), thing3=things[2],
            a_thing3=article(things[2]), place=places[0], place2=places[1], place3=places[2],
            hid=hidden[0], hid2=hidden[1], hid3=hidden[2], home=rng.choice(HOMES),
            job=rng.choice(JOBS), kin=rng.choice(RELATIVES), weather=rng.choice(WEATHER),
            skill=rng.choice(SKILLS))
        self.fields["foods"] = plural(self.fields["food"])
        self.fields["a_food"] = article(self.fields["food"])
        self.fields["things2"] = plural(self.fields["thing2"])
        self.text = []

    def say(self, template, **more):
        while match := INNERMOST.search(template):
            choice = self.rng.choice(match.group(1).split("|"))
            template = template[:match.start()] + choice + template[match.end():]
        self.text.append(template.format(**self.fields, **more))

    def story(self):
        return " ".join(self.text)


def opening(cast):
    cast.say("[Once upon a time, there was|Long ago, there lived|There once was] a"
             " [little|young|small] {Xkind} named {X}. {XHe} lived in a [small|cosy|tidy|tall]"
             " house near the {home} with {Xhis} {kin}. [Everyone knew that {X} was {Xtrait}.|{X}"
             " was a very {Xtrait} {Xkind}.]")
    cast.say("It was a {weather} [morning|day|afternoon].")


def ending(cast):
    cast.say("[In the evening|At the end of the day|When the sun went down|Before dinner], {X}"
             " [walked|went|ran] back to the house near the {home}.")
    cast.say("{XHe} told {Xhis} {kin} [everything|all about it|the whole story]. \"You are a"
             " {Xtrait} {Xkind},\" [said|laughed|whispered] {Xhis} {kin}.")
    cast.say("[{X} [smiled|yawned|laughed] and [went to bed|fell asleep|had a warm supper].|And"
             " they all lived happily.|That night {X} dreamed of the {place}.|{X} never forgot"
             " that {weather} day.]")


def aside(cast):
    """A sentence that belongs to no plot, put anywhere after the opening."""
    cast.say(cast.rng.choice([
        "[A [bird|bee|butterfly] [sat on|flew over]|[A snail|An ant|A beetle] [crawled"
        " under|slept on|crossed]] [a stone|the fence|a flower|the path|a leaf].",
        "The [wind|water|grass|air|ground] was [cool|soft|quiet|fresh|still].",
        "[Far away|Somewhere], a [bell rang|horse neighed|child laughed|cow mooed|train whistled].",
        "The [sun|moon|clouds|shadows|stars] [moved|waited|changed] [slowly|gently]"
        " [above|behind] the [trees|hills|houses|fields].",
        "{X} [thought of|missed|remembered] {Xhis} {kin}.",
        "[\"What a {weather} day,\" said {X}.|\"I like {weather} days,\" {Xhe} said.]",
        "It smelled of [bread|honey|smoke|rain|flowers|soap].",
        "{X} [sang a song|took a deep breath|hummed|rubbed {Xhis} nose|jumped over a puddle]."]))
    remark = cast.text.pop()
    cast.text.insert(cast.rng.randint(2, len(cast.text)), remark)


def lost(cast):
    cast.say("{X} had {a_toy}, and {Xhe} [loved it very much|took it everywhere|played with it"
             " every day]. But today the {toy} was [gone|lost|not there].")
    cast.say("{X} felt [sad|worried|upset]. First {Xhe} looked {hid}, but the {toy} was not"
             " there. Then {Xhe} looked {hid2}, but [there was only {a_thing2}|{Xhe} found"
             " nothing|it was not there either].")
    cast.say("{X} asked {Xhis} friend {Y} the {Ykind}. \"Have you seen my {toy}?\" [asked"
             " {X}|{Xhe} asked]. \"[Yes|I think so], [I saw it|it is|it must be] in the {place},"
             " {hid3},\" said {Y}.")
    cast.say("They [ran|walked|hurried] to the {place} together. There it was, {hid3}! \"Thank"
             " you, {Y},\" said {X}. {XHe} was so [happy|glad] to have the {toy} again.")


def sharing(cast):
    total = cast.rng.randint(3, 12)
    given = cast.rng.randint(1, total - 2)
    cast.say("{X} had a basket with {total} {foods}. {XHe} took the basket to the {place}.",
             total=NUMBERS[total])
    cast.say("There {Xhe} met a {Ytrait} {Ykind} named {Y}. {Y} looked [sad|tired|pale]. \"What"
             " is wrong?\" asked {X}. \"I am [so hungry|very hungry],\" said {Y}.")
    cast.say("\"You can have some of my {foods},\" said {X}. {XHe} gave {given} of the {foods} to"
             " {Y}. Now {X} had {left} {foods} left, and {Y} had {given}.", given=NUMBERS[given],
             left=NUMBERS[total - given])
    cast.say("They [sat in the {place} and ate|ate together|sat down and ate] until the basket"
             " was empty. \"[You are a good friend|Thank you|You are very kind], {X},\" said {Y}.")


def present(cast):
    cast.say("It was the birthday of {X}'s friend {Y}. {X} wanted to [make|build] {a_toy} for {Y}.")
    cast.say("\"I need {a_thing}, {a_thing2} and {a_thing3},\" {Xhe} [thought|said]. {XHe} found"
             " the {thing} in the {place}. The {job} gave {Xhim} the {thing2}. And the {thing3}"
             " was {hid}.")
    cast.say("Now {X} had the {thing}, the {thing2} and the {thing3}. {XHe} worked [all day|for a"
             " long time|until noon], and the {toy} was [ready|done].")
    cast.say("{Y} opened the [box|present]. \"Oh, {a_toy}!\" [said|shouted] {Y}. \"[Did you make"
             " it for me|Is it really for me], {X}?\" \"Yes,\" said {X}. {Y} the {Ykind} was very"
             " [happy|proud|glad].")


def rescue(cast):
    cast.say("{X} was walking to the {place} when {Xhe} heard a [small|strange|soft] voice."
             " \"Help! Help!\" It was {Y} the {Ykind}, who was stuck {hid}.")
    cast.say("\"[Wait|Do not be afraid|Hold on], {Y}! I will [help you|get you out],\" said {X}."
             " {XHe} ran to the {job} and asked for {a_thing}.")
    cast.say("The {job} gave {Xhim} the {thing}. {X} [ran|hurried] back to the {place}. With the"
             " {thing} {Xhe} pulled and pulled, and [at last|soon] {Y} was free.")
    cast.say("\"[You saved me|Thank you so much], {X},\" said {Y}. \"[I was so scared|I was"
             " afraid]\" {Yhe} said. Then {X} gave the {thing} back to the {job}.")


def treasure(cast):
    cast.say("In the {place}, {X} found an old box {hid}. On the box was a name: {Y}. {X} opened"
             " it. Inside was {a_thing}.")
    cast.say("\"[This is not mine|This must belong to someone],\" {Xhe} [said|thought]. \"I have"
             " to find {Y}.\" {X} asked the {job}. \"{Y} is {a_Ykind}. {YHe} lives near the"
             " {place2},\" said the {job}.")
    cast.say("So {X} carried the box to the {place2} and knocked on the door. {Y} the {Ykind}"
             " opened. \"Is this {thing} yours?\" asked {X}.")
    cast.say("\"My {thing}!\" said {Y}. \"I lost it [long ago|last year|many years ago]. [You are"
             " so honest|How can I thank you]!\" {YHe} gave {X} {a_food}, and they became"
             " friends.")


def journey(cast):
    cast.say("{X} and {Xhis} friend {Y} the {Ykind} wanted to see the {place3}. {X} carried"
             " {a_thing}, and {Y} carried {a_thing2}.")
    cast.say("First they came to the {place}. There they met the {job}, who gave them {a_food}."
             " Then they came to the {place2}. [It was dark, and they were afraid.|There they"
             " rested.|There it was {weather} too.]")
    cast.say("\"[Are we lost|Is it far], {X}?\" asked {Y}. \"No, {Y}. First the {place}, then the"
             " {place2}, and then the {place3},\" said {X}.")
    cast.say("At last they came to the {place3}. They sat down and [ate|shared] the {food}. {X}"
             " still had the {thing}, and {Y} still had the {thing2}. It was a"
             " [wonderful|long|good] day.")


def quarrel(cast):
    cast.say("{X} and {Y} the {Ykind} played in the {place}. {X} had {a_toy}. \"[I want it|Give"
             " it to me|It is my turn]!\" said {Y}. \"No, [the {toy} is mine|it is mine]!\" said"
             " {X}.")
    cast.say("They pulled, and the {toy} broke. {X} was [angry|sad] and {Y} was [sorry|sad]."
             " {YHe} [ran away|hid] and sat {hid}.")
    cast.say("[After a while|Later] {X} found {Y} {hid}. \"I am sorry I took the {toy},\" said"
             " {Y}. \"I am sorry too,\" said {X}. \"[We can fix it|Let us fix it] together.\"")
    cast.say("The {job} gave them {a_thing2}, and with the {thing2} they fixed the {toy}. Now {X}"
             " and {Y} [took turns|played together] with the {toy} in the {place}.")


def collecting(cast):
    first, second = cast.rng.randint(1, 9), cast.rng.randint(1, 9)
    counted = ", ".join(NUMBERS[1:first + 1])
    cast.say("{X} went to the {place} to look for {things2}. {XHe} counted them: {counted}. {X}"
             " had {first} {things2}.", counted=counted, first=NUMBERS[first])
    cast.say("Then {Xhe} met {Y} the {Ykind}. {Y} had {second} {things2}. \"Let us put them"
             " together,\" said {Y}. \"{first} and {second} make {total},\" said {X}.",
             first=NUMBERS[first],
             second=NUMBERS[second], total=NUMBERS[first + second])
    cast.say("They put the {total} {things2} {hid}, where [no one|nobody] could find them. It was"
             " their secret.", total=NUMBERS[first + second])


def learning(cast):
    cast.say("{X} wanted to learn to {skill}, but {Xhe} was [afraid|too shy|not sure]. \"I cannot"
             " {skill},\" {Xhe} said.")
    cast.say("{Y} the {Ykind} came along. {Y} was very {Ytrait}. \"I can {skill}. I will show"
             " you,\" said {Y}. They went to the {place}.")
    cast.say("The first time, it [went wrong|was too hard]. The second time, it was [a little|a"
             " bit] better. \"Do not give up, {X},\" said {Y}. The third time, {X} could do it!")
    cast.say("\"I can {skill}!\" [shouted|sang|said] {X}. {Y} [clapped|smiled|laughed]. {X} gave"
             " {Y} {a_food} to say thank you.")


PLOTS = [lost, sharing, present, rescue, treasure, journey, quarrel, collecting, learning]


def story(cast):
    opening(cast)
    plot = cast.rng.choice(PLOTS)
    plot(cast)
    ending(cast)
    for _ in range(cast.rng.choice([0, 1, 1, 2])):
        aside(cast)
    return plot


def turn(role, content):
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def ask_about(cast, plot):
    """Questions that the story just told has answered."""
    f = cast.fields
    questions = [(f"Where did {f['X']} live?", f"{f['X']} lived in a house near the {f['home']}."),
                 (f"Who was {f['X']}?", f"{f['X']} was a {f['Xtrait']} {f['Xkind']}."),
                 ("How was the weather?", f"It was a {f['weather']} day."),
                 (f"Who was {f['Y']}?", f"{f['Y']} was {f['a_Ykind']}."),
                 (f"Who lived with {f['X']}?", f"{f['X']} lived with {f['Xhis']} {f['kin']}.")]
    if plot in (lost, present, quarrel):
        questions.append((f"What color was the {f['toy'].split()[1]}?", f"It was {f['color']}."))
    if plot is lost:
        questions.append((f"Where was the {f['toy']}?",
                          f"It was in the {f['place']}, {f['hid3']}."))
    if plot in (rescue, treasure, quarrel):
        questions.append(("Where were they?", f"They were in the {f['place']}."))
    return cast.rng.sample(questions, cast.rng.randint(1, 3))


def small_question(rng):
    kind = rng.randrange(6)
    if kind == 0:
        first = rng.randint(1, 9)
        last = min(20, first + rng.randint(2, 9))
        return (f"Count from {NUMBERS[first]} to {NUMBERS[last]}.",
                ", ".join(NUMBERS[first:last + 1]).capitalize() + ".")
    if kind == 1:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        return f"What is {a} + {b}?", f"{a} + {b} = {a + b}."
    if kind == 2:
        a, b = rng.sample(rng.choice(OPPOSITES), 2)
        return f"What is the opposite of {a}?", f"The opposite of {a} is {b}."
    if kind == 3:
        noun = rng.choice(TOYS + THINGS + FOODS)
        return f"What do we call more than one {noun}?", f"We call them {plural(noun)}."
    return rng.choice(FACTS)


def conversation(rng):
    cast = Cast(rng)
    f = cast.fields
    text = ""
    if rng.random() < 0.3:
        text += turn("system", rng.choice(["You are a friendly storyteller.", "You are a helpful"
                                                                              " friend.",
                                           "Answer in short sentences."]))
    kind = rng.random()
    if kind < 0.3:
        plot = story(cast)
        about = rng.choice([f"{f['X']}", f"a {f['Xkind']} named {f['X']}",
                            f"{f['X']} the {f['Xkind']} and {f['Y']} the {f['Ykind']}"])
        text += turn("user", rng.choice(["Tell me a story about {}.", "Please write a story about"
                                                                      " {}."])
                     .format(about)) + turn("assistant", cast.story())
        turns = ask_about(cast, plot)
    elif kind < 0.5:
        plot = story(cast)
        (question, answer), *turns = ask_about(cast, plot)
        text += turn("user", f"{cast.story()}\n\n{question}") + turn("assistant", answer)
    else:
        turns = [small_question(rng) for _ in range(rng.randint(1, 4))]
        if rng.random() < 0.5:
            color = rng.choice(COLORS)
            turns.insert(0, (f"Hello! My name is {f['X']}, and I like the color {color}.",
                             f"Hello, {f['X']}! It is nice to meet you."))
            turns.append(rng.choice([("What is my name?", f"Your name is {f['X']}."),
                                     ("Which color do I like?", f"You like the color {color}.")]))
    return text + "".join(turn("user", q) + turn("assistant", a) for q, a in turns)


def document(rng):
    """One story or conversation, begun by <|endoftext|>."""
    if rng.random() < 0.35:
        return "<|endoftext|>" + conversation(rng)
    cast = Cast(rng)
    story(cast)
    return "<|endoftext|>" + cast.story() + "\n"


def text(seed, characters):
    """Documents of one seed until they hold about that many characters."""
    rng = random.Random(seed)
    documents, size = [], 0
    while size < characters:
        documents.append(document(rng))
        size += len(documents[-1])
    return "".join(documents)
