#!/usr/bin/env python3
"""Conversations from stories: what a person may ask for, and a story that is an answer to it.

Idea: the answer is there already, so the question is made from it. What a story is about shows in the nouns that it
repeats and that other stories do not ("a", "the", "his" .. stand before nouns); who is in it, in the names; how it
ends, in its last sentence. Greetings and questions about the model itself are written out below.

Usage: story_chats.py STORIES.txt[.zst] ... --out chats.jsonl [--valid N] [--seed 0]
Each line: {"messages": [{"role": "user", "content": ..}, {"role": "assistant", "content": ..}]}. The same input gives
the same output.
"""
import argparse
import collections
import json
import math
import random
import re
import subprocess
import sys

DOCUMENT_END = "<|endoftext|>"
BEFORE_NOUNS = {"a", "an", "the", "his", "her", "my", "their", "little", "big", "old"}
NO_SUBJECTS = set("""day time way one thing things other same next end lot bit moment place side top bottom back front
first last second rest best most more new good bad big little small old young long whole very great nice happy sad red
blue green yellow black white brown pretty beautiful special loud soft hard strong brave kind mean scared story moral
lesson morning night evening afternoon while idea name friend friends mom dad mommy daddy mother father boy girl man
woman people family house home room hand hands head face eyes heart world ground air left right middle inside outside
sound noise voice smile fun help problem secret something everyone everything""".split())
LONGEST_STORY = 1700  # characters: a story fits the row it is trained in

SUBJECT = ["Tell me a story about {a}.", "Can you tell me a story about {a}?", "I want a story about {a}.",
           "Write a short story about {a}.", "Please tell a story about {a}.", "tell me a story about {a}",
           "A story about {a}, please.", "Make up a story about {a}.", "Could you write a story with {a} in it?"]
TWO = ["Tell me a story about {a} and {b}.", "Write a story with {a} and {b}.", "Can you make a story about {a} and {b}?",
       "I would like a story about {a} and {b}.", "a story about {a} and {b} please"]
NAMED = ["Tell me a story about {n}.", "Tell me a story about a {who} named {n}.", "Write a story about a {who} called {n}.",
         "Can you tell a story where the {who} is named {n}?", "I want a story about a {who} named {n} and {a}.",
         "Tell me a story about {n} and {a}."]
TWO_NAMES = ["Tell me a story about {n} and {m}.", "Write a story about two friends, {n} and {m}.",
             "A story with {n} and {m}, please.", "Can you tell me a story about {n}, {m} and {a}?"]
WORDS = ["Write a story that uses the words {w}.", "Tell me a story with the words {w}.",
         "Use these words in a story: {w}.", "Make a short story. It must have the words {w} in it."]
ENDING = ["Write a story that ends like this: {e}", "Tell me a story with this ending: {e}",
          "Tell me a story about {a}. It should end with: {e}", "The last sentence of the story should be: {e}"]
CONTINUE = ["Go on with this story: {s}", "Continue the story: {s}", "What happens next? {s}",
            "Finish this story for me: {s}", "{s}"]
ANY = ["Tell me a story.", "Can you tell me a story?", "I want to hear a story.", "Tell me a bedtime story, please.",
       "Write a short story.", "Story please!", "tell me something nice", "Make up a story for me."]
MORAL = ["Tell me a fable about {a}.", "Write a fable about {a}.", "Tell me a story about {a} with a moral.",
         "I want a fable with {a} and {b} in it."]

NAME = "Westlake"
TALK = {
    ("Hi", "Hello", "Hi!", "Hello!", "Hey", "hi there", "Hello there!", "hey!", "Good day", "Greetings"):
        ["Hello! I am Westlake. Shall I tell you a story? Say what it should be about.",
         "Hi! What kind of story would you like today?", "Hello! Tell me a word or a name, and I will make a story of it."],
    ("Good morning", "Good morning!", "Morning"): ["Good morning! Would you like a story to begin the day?"],
    ("Good night", "Good night!", "Goodnight", "Sleep well"): ["Good night! Sleep well and dream of something nice.",
                                                              "Sweet dreams! If you like, I tell you a bedtime story."],
    ("Bye", "Goodbye", "See you", "bye bye", "See you later!", "I have to go"):
        ["Goodbye! Come back when you want another story.", "Bye! It was nice to talk with you."],
    ("How are you?", "How are you today?", "How do you do?", "how's it going?", "What's up?", "Are you well?"):
        ["I am well, thank you! I have many stories to tell. Which one would you like?",
         "Very well, thank you. How are you? Shall we make a story?"],
    ("Who are you?", "What are you?", "what is your name?", "What's your name?", "Tell me about yourself.", "Are you a robot?",
     "Are you human?", "Are you a person?", "Are you an AI?", "Introduce yourself."):
        ["I am Westlake, a very small language model. I live on this machine and I tell short stories.",
         "My name is Westlake. I am a small language model, not a person. I know simple stories and can tell you one."],
    ("What can you do?", "What do you do?", "Can you help me?", "How can I use you?", "What are you good at?", "help"):
        ["I tell short stories. Give me a subject, names, some words or an ending, or begin a story and I go on with it.",
         "I can tell a story about what you like, with the names or words that you choose, or go on with a story you begin."],
    ("Who made you?", "Where do you come from?", "How were you made?", "Who trained you?", "What were you trained on?"):
        ["I was trained from scratch on an ordinary computer with two cores, from children's stories and old books.",
         "The Westlake trainer made me from children's stories and fairy tales, in a few hours on two processor cores."],
    ("Where do you live?", "Do you need the internet?", "Do you send my words anywhere?", "Are my words private?"):
        ["I live on this machine. Nothing you write leaves it.", "I run here, on your own machine. What you say stays here."],
    ("Thank you", "Thanks", "Thank you!", "thanks a lot", "That was nice.", "Nice story!", "I liked it.", "Great story!"):
        ["You are welcome! Would you like another one?", "I am glad you liked it. Shall I tell one more?"],
    ("What is the capital of France?", "What is 12 times 13?", "Can you write code?", "What is the weather?",
     "Who is the president?", "Explain quantum physics.", "Translate this for me.", "Solve this equation.", "What day is it?"):
        ["I am a very small model and do not know such things. But I can tell you a story!",
         "That is more than I know. I only tell simple stories. Would you like one?"],
    ("I am sad.", "I feel sad today.", "I had a bad day.", "I am lonely."):
        ["I am sorry to hear that. A story may help. Shall I tell you one about a friend who cheers you up?"],
    ("I am bored.", "I'm bored", "What should we do?"): ["Then let us make a story! Who should be in it?"],
    ("Do you like stories?", "What is your favourite story?", "Do you like animals?", "Do you have friends?"):
        ["I like stories with kind friends and a happy end best.", "Yes! I like small animals that find a friend."],
    ("你好", "你是谁？", "您好"): ["你好！我是 Westlake，一个会讲英文小故事的小模型。"],
}


def read_documents(path):
    if path.endswith(".zst"):
        text = subprocess.run(["zstd", "-dcq", path], check=True, stdout=subprocess.PIPE).stdout.decode("utf-8")
    else:
        text = open(path, encoding="utf-8").read()
    for document in text.split(f"\n{DOCUMENT_END}"):
        document = "\n".join(line.strip() for line in document.strip().splitlines() if line.strip())
        if 200 <= len(document) <= LONGEST_STORY and document[-1] in ".!?\"'”":
            yield document


def words_of(text):
    return re.findall(r"[A-Za-z']+", text)


def nouns_of(text):
    """Words that stand behind an article, with how often they occur in all."""
    words = [w.lower().strip("'") for w in words_of(text)]
    found = collections.Counter(b for a, b in zip(words, words[1:]) if a in BEFORE_NOUNS)
    return {w: words.count(w) for w in found if len(w) > 2 and w not in NO_SUBJECTS and w not in BEFORE_NOUNS
            and not w.endswith(("ed", "ly", "ing", "est"))}


def names_of(text):
    """Names by falling frequency: capitalised words inside sentences that are never written small."""
    inside = collections.Counter(re.findall(r"(?<=[a-z,] )([A-Z][a-z]{2,})\b", text))
    small = set(re.findall(r"\b[a-z]+\b", text))
    return [n for n, count in inside.most_common(4) if count >= 2 and n.lower() not in small and n not in
            {"Once", "One", "The", "She", "They", "Mom", "Dad", "Mommy", "Daddy", "But", "Mama", "Papa", "Mrs", "Miss"}]


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentences(text):
    return [s for s in re.split(r"(?<=[.!?][\"”])\s+|(?<=[.!?])\s+", text.replace("\n", " \n ")) if s.strip()]


class Maker:
    def __init__(self, documents, seed):
        self.random = random.Random(seed)
        self.documents = documents
        self.frequency = collections.Counter()
        for document in documents:
            self.frequency.update(nouns_of(document).keys())

    def subjects(self, document):
        n = len(self.documents)
        weight = {w: c * math.log(n / (1 + self.frequency[w])) for w, c in nouns_of(document).items()
                  if self.frequency[w] >= 3}
        return sorted(weight, key=lambda w: (-weight[w], w))[:5]

    def prompt(self, document, fable):
        """A question to which the document is an answer, and the part of it that answers."""
        r, subjects, names = self.random, self.subjects(document), names_of(document)
        kinds = [("any", 1)]
        if subjects:
            kinds += [("subject", 6), ("ending", 2)]
        if len(subjects) > 1:
            kinds += [("two", 3)]
        if len(subjects) > 2:
            kinds += [("words", 4)]
        if names and subjects:
            kinds += [("named", 5)]
        if len(names) > 1 and subjects:
            kinds += [("two names", 3)]
        if len(sentences(document)) > 6:
            kinds += [("continue", 4)]
        kind = r.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        a = article(subjects[0]) if subjects else ""
        b = article(subjects[1]) if len(subjects) > 1 else a
        if kind == "any":
            return r.choice(ANY), document
        if kind in ("subject", "two"):
            if fable and r.random() < 0.6:
                return r.choice(MORAL).format(a=a, b=b), document
            return r.choice(SUBJECT if kind == "subject" else TWO).format(a=a, b=b), document
        if kind == "named":
            opening = " ".join(words_of(document[:300])).lower()
            who = next((w for w in ("girl", "boy", "dog", "cat", "bird", "bear", "bunny", "rabbit", "fox", "mouse", "man",
                                    "woman", "frog", "duck", "fish", "monkey") if w in opening.split()), None)
            choice = r.choice(NAMED if who else [p for p in NAMED if "{who}" not in p])
            return choice.format(n=names[0], who=who, a=a), document
        if kind == "two names":
            return r.choice(TWO_NAMES).format(n=names[0], m=names[1], a=a), document
        if kind == "words":
            chosen = r.sample(subjects, 3)
            return r.choice(WORDS).format(w=f"{chosen[0]}, {chosen[1]} and {chosen[2]}"), document
        if kind == "ending":
            return r.choice(ENDING).format(e=sentences(document)[-1].strip(), a=a), document
        parts = sentences(document)
        cut = r.randint(1, 3)
        begun = " ".join(p.strip() for p in parts[:cut])
        rest = document[document.find(parts[cut].strip()):]
        return r.choice(CONTINUE).format(s=begun), rest


def conversation(*turns):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stories", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--talk-share", type=float, default=0.08, help="share of conversations that begin with talk")
    arguments = parser.parse_args()
    documents, fables = [], set()
    for path in arguments.stories:
        for document in read_documents(path):
            if "fable" in path:
                fables.add(len(documents))
            documents.append(document)
    if not documents:
        sys.exit("story_chats.py: no stories in " + " ".join(arguments.stories))
    maker = Maker(documents, arguments.seed)
    r = maker.random
    questions = [(q, a) for qs, a in TALK.items() for q in qs]
    lines = []
    for i, document in enumerate(documents):
        question, answer = maker.prompt(document, i in fables)
        turns = [question, answer]
        if r.random() < arguments.talk_share:
            q, a = r.choice(questions)
            turns = [q, r.choice(a)] + turns
        lines.append(conversation(*turns))
    for _ in range(int(len(documents) * arguments.talk_share)):
        q, a = r.choice(questions)
        turns = [q, r.choice(a)]
        if r.random() < 0.3:
            q, a = r.choice(questions)
            turns += [q, r.choice(a)]
        lines.append(conversation(*turns))
    r.shuffle(lines)
    with open(arguments.out, "w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
