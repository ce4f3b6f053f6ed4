#!/usr/bin/env python3
"""westlake chat and generate as a user meets them: on a pipe, and on a terminal (a pseudo-terminal).

The model is a reference checkpoint of a few layers with a tokenizer of single bytes beside it: what it says is noise,
how it is said is what is tested.

usage: chat_test.py WESTLAKE MODELS
"""
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

WESTLAKE, MODELS = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
USER, END, THINK, UNTHINK = 256, 257, 258, 259
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m['role'] }}:{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant:{% endif %}"
)
# Neither the end of an answer nor a tag of thinking comes by chance.
STEADY = ["--temp", "0"] + [f"--logit-bias={i}=-1000" for i in (USER, END, THINK, UNTHINK)]
FAILURES = []


def check(condition, what):
    if not condition:
        FAILURES.append(what)
        print(f"FAILED: {what}", flush=True)


def byte_alphabet():
    """The printable characters that stand for the 256 bytes in a byte-level vocabulary."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(other)) for b in range(256)]


def make_model(folder, template=TEMPLATE):
    shutil.copytree(os.path.join(MODELS, "llama_rope_tied"), folder)
    added = [(USER, "<|user|>", True), (END, "<|end|>", True), (THINK, "<think>", False), (UNTHINK, "</think>", False)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": c, "special": s, **flags} for i, c, s in added],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(byte_alphabet())}, "merges": []},
    }
    with open(os.path.join(folder, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)
    config = {"eos_token": "<|end|>"}
    if template:
        config["chat_template"] = template
    with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
        json.dump(config, file)


def run(*arguments, stdin=b""):
    return subprocess.run([WESTLAKE, *arguments], input=stdin, capture_output=True, timeout=120)


class Terminal:
    """The program on a terminal of its own."""

    def __init__(self, cache, *arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm", "WESTLAKE_CACHE": cache}
            environment.pop("NO_COLOR", None)
            os.execve(WESTLAKE, [WESTLAKE, *arguments], environment)
        self.seen = ""

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, pattern, seconds=60):
        """Waits for the pattern, takes everything up to it, returns what was before."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                before = self.seen[: found.start()]
                self.seen = self.seen[found.end() :]
                return before
            if time.monotonic() > end or not self.read(max(0.01, end - time.monotonic())):
                check(False, f"waited for {pattern!r}, seen {self.seen[-300:]!r}")
                self.kill()
                raise TimeoutError(pattern)

    def type(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        self.type(text + "\r")

    def prompt(self):
        before = self.expect(r"\n(?:\x1b\[[0-9;?]*[a-zA-Z])*\r?> |\r> ")
        time.sleep(0.1)  # the editor writes its prompt a moment before it takes over the keys
        return before

    def end(self, seconds=30):
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        self.kill()
        return None

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_pipe(model):
    said = run("chat", model, "-n", "20", *STEADY, stdin=b"hi\n")
    check(said.returncode == 0, f"pipe: exit code {said.returncode}, {said.stderr!r}")
    check(said.stdout.endswith(b"\n") and len(said.stdout) > 5, f"pipe: an answer, seen {said.stdout!r}")
    check(said.stderr == b"", f"pipe: nothing on standard error, seen {said.stderr!r}")
    generated = run("generate", model, "--chat", "-p", "hi", "-n", "20", *STEADY, "--json")
    answer = json.loads(generated.stdout)
    check(said.stdout.decode() == answer["text"] + "\n", "pipe: the answer alone, as generate gives it")
    check(answer["usage"]["prompt_tokens"] == len("user:hiassistant:") + 3, f"prompt of {answer['usage']}")
    check(answer["finish_reason"] == "length" and len(answer["ids"]) == 20, f"20 tokens, seen {answer}")
    # A control token in a message is text: it costs a token a character.
    injected = run("generate", model, "--chat", "-p", "<|end|>", "-n", "1", *STEADY, "--json")
    check(
        json.loads(injected.stdout)["usage"]["prompt_tokens"] == len("user:<|end|>assistant:") + 3,
        "a message cannot end itself",
    )
    several = run("chat", model, "-n", "4", *STEADY, "--verbose", stdin=b"one\ntwo\n")
    check(b"prompt 25 tok" in several.stderr, f"all of the pipe is one message, seen {several.stderr!r}")
    hot = ["chat", model, "-n", "30", "--temp", "1.5"]
    first, again = (run(*hot, "--seed", "7", stdin=b"hi").stdout for _ in range(2))
    check(first == again, "the same seed says the same")
    check(first != run(*hot, "--seed", "8", stdin=b"hi").stdout, "another seed says something else")


def test_errors(model, untrained):
    long = run("chat", model, "--ctx", "64", stdin=b"x" * 100)
    check(long.returncode == 1, f"too long: exit code {long.returncode}")
    check(b"prompt is 118 tokens, context 64" in long.stderr, f"too long: both numbers, seen {long.stderr!r}")
    check(long.stdout == b"", "too long: nothing on standard output")
    empty = run("chat", model, stdin=b"\n")
    check(empty.returncode == 1 and b"empty" in empty.stderr, f"an empty pipe is an error, seen {empty.stderr!r}")
    none = run("chat", untrained, stdin=b"hi")
    check(
        none.returncode == 1 and b"no chat template" in none.stderr and b"westlake generate" in none.stderr,
        f"without a template: a hint, seen {none.stderr!r}",
    )
    bad = run("chat", model, "--top-p", "7", stdin=b"hi")
    check(bad.returncode == 1 and b"top_p is 7" in bad.stderr, f"a bad setting is named, seen {bad.stderr!r}")
    full = subprocess.run(
        [WESTLAKE, "generate", model, "-p", "hi", "-n", "5"], stdout=open("/dev/full", "w"), stderr=subprocess.PIPE
    )
    check(full.returncode == 1, "a full disk is an error")


def test_generate(model, folder):
    ids_file = os.path.join(folder, "out.npy")
    golden = os.path.join(MODELS, "llama_rope_tied")
    made = run("generate", golden, "--ids", f"@{golden}/tokens.npy", "-n", "24", "--temp", "0", "--exact",
               "--ids-out", ids_file)
    check(made.returncode == 0, f"generate without a tokenizer: {made.stderr!r}")
    with open(ids_file, "rb") as out, open(os.path.join(golden, "greedy.npy"), "rb") as greedy:
        check(out.read()[-96:] == greedy.read()[-96:], "greedy ids of the reference")
    check(len(made.stdout.split(b",")) == 24, f"without a tokenizer the ids are printed, seen {made.stdout!r}")
    text = run("generate", model, "-p", "abc", "-n", "40", *STEADY).stdout.decode()
    middle = text[5:8]
    stopped = run("generate", model, "-p", "abc", "-n", "40", *STEADY, "--stop", middle).stdout.decode()
    check(stopped == text[: text.index(middle)] + "\n", f"stops before {middle!r}: {stopped!r} of {text!r}")
    forced = run("generate", model, "-p", "abc", "-n", "40", "--temp", "0", "--logit-bias", f"{END}=1000", "--json")
    answer = json.loads(forced.stdout)
    check(answer["ids"] == [END] and answer["finish_reason"] == "stop" and answer["text"] == "", f"{answer}")
    check(run("generate", model, "-n", "3", *STEADY, stdin=b"abc").returncode == 0, "a prompt on a pipe")


def test_interrupted_pipe(model):
    process = subprocess.Popen([WESTLAKE, "chat", model, *STEADY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"hi")
    process.stdin.close()
    process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    process.stdout.read()
    check(process.wait(30) == 130, f"an interrupted pipe ends with 130, seen {process.returncode}")
    process.stdout.close()


def test_conversation(model, folder, cache):
    saved, other = os.path.join(folder, "a b.json"), os.path.join(folder, "b.json")
    t = Terminal(cache, "chat", model, "-n", "8", "--ctx", "300", *STEADY, "--verbose")
    greeting = t.prompt()
    check("context 300" in greeting and "/help" in greeting, f"one line of greeting, seen {greeting!r}")
    t.line("hello")
    t.expect(r"prompt 23 tok, 0 cached.*?answer 8 tok")
    t.prompt()
    t.line("and more")
    statistics = t.expect(r"; length\]")
    t.prompt()
    cached = re.search(r"prompt (\d+) tok, (\d+) cached", statistics)
    # The last token of the answer is not in the cache; what follows it is new.
    new = 1 + len("<user:and more<assistant:") + 2
    check(cached and int(cached[1]) - int(cached[2]) == new, f"a turn computes what is new ({new}): {cached and cached[0]}")

    t.line(f"/save {saved}")
    t.expect("Saved 4 messages")
    t.prompt()
    with open(saved) as file:
        conversation = json.load(file)
    roles = [m["role"] for m in conversation["messages"]]
    check(roles == ["user", "assistant"] * 2, f"saved roles {roles}")
    check(conversation["messages"][2]["content"] == "and more", "saved text")

    t.line("x" * 280)
    t.expect(r"prompt is \d+ tokens, context 300.*?/new")
    t.prompt()
    t.line(f"/save {other}")
    t.expect("Saved 4 messages")
    t.prompt()
    check(open(other).read() == open(saved).read(), "a message that is too long leaves the conversation as it was")

    t.line("/nonsense")
    t.expect("no command is called /nonsense.*?/help")
    t.prompt()
    t.line("/set temp warm")
    t.expect("temp is 'warm', expected a number")
    t.prompt()
    t.line("/set system Be brief.")
    t.expect("system Be brief.")
    t.prompt()
    t.line("/new")
    t.expect("new conversation")
    t.prompt()
    t.line("hello")
    t.expect(r"prompt 41 tok, 0 cached")
    t.prompt()
    t.line("/set temp 0.25")
    t.prompt()
    t.line(f"/load {saved}")
    t.expect("Loaded 4 messages")
    t.prompt()
    t.line(f"/save {other}")
    t.expect("Saved 4 messages")
    t.prompt()
    check(open(other).read() == open(saved).read(), "save, load, save: the same file")
    t.line("/load /nowhere.json")
    t.expect("/nowhere.json")
    t.prompt()
    t.line("/quit")
    check(t.end() == 0, "/quit ends with 0")
    with open(os.path.join(cache, "history")) as file:
        check("hello" in file.read(), "lines are remembered")


def test_keys(model, cache):
    t = Terminal(cache, "chat", model, *STEADY)
    t.prompt()
    t.line("hello")
    t.expect("hello\r\n")
    t.expect(r"\x1b\[\?2004l[^\s]{5}")  # the answer, behind the end of editing
    started = time.monotonic()
    t.type("\x03")
    t.prompt()
    check(time.monotonic() - started < 20, "Ctrl-C stops an answer")
    t.type("abc\x03")
    t.prompt()
    t.type("abcd\x7f\x7f\x7f\x7f/hel\x01\x05p\r")  # editing: rubbed out, to the beginning, to the end
    t.expect("/quit")
    t.prompt()
    t.type("\x1b[A\r")  # the line before
    t.expect("/quit")
    t.prompt()
    t.type("\x03")
    check(t.end() == 130, "Ctrl-C at an empty line leaves with 130")

    t = Terminal(cache, "chat", model, *STEADY)
    t.prompt()
    t.line("hello")
    t.expect("hello\r\n")
    t.expect(r"\x1b\[\?2004l[^\s]{5}")  # the answer, behind the end of editing
    t.type("\x03")  # two at once are one signal
    time.sleep(0.2)
    t.type("\x03")
    check(t.end() == 130, "two Ctrl-C leave with 130")

    t = Terminal(cache, "chat", model)
    t.prompt()
    t.type("\x04")
    check(t.end() == 0, "Ctrl-D leaves with 0")


def test_paste(model, folder, cache):
    t = Terminal(cache, "chat", model, "-n", "4", *STEADY, "--verbose")
    t.prompt()
    # As terminals send it: newlines as Enter would, one at the end as copied from an editor.
    t.type("say: \x1b[200~first\rsecond \u00e9\r/quit\r\x1b[201~")
    time.sleep(0.3)
    t.read(0.2)
    check("answer" not in t.seen, f"nothing is sent before Enter, seen {t.seen!r}")
    t.type("!\r")
    t.expect(r"answer 4 tok")
    t.prompt()
    saved = os.path.join(folder, "pasted.json")
    t.line(f"/save {saved}")
    t.expect("Saved 2 messages")
    t.prompt()
    with open(saved) as file:
        message = json.load(file)["messages"][0]["content"]
    check(message == "say: first\nsecond \u00e9\n/quit!", f"a paste is one message, seen {message!r}")
    t.type("\x1b[200~\x1b[201~\x04")
    check(t.end() == 0, "an empty paste is nothing")
    t.read(0.2)  # what it said last
    check("\x1b[?2004l" in t.seen and "\x1b[?2004h" not in t.seen, "the terminal is left as it was")


def with_temperature(gguf, temperature):
    """The bytes of a GGUF that says general.sampling.temp: two keys of 64 bytes in all, so that alignment stays."""
    def text(value):
        return struct.pack("<Q", len(value)) + value
    keys = text(b"general.sampling.temp") + struct.pack("<If", 6, temperature) + text(b"x.pad") + struct.pack("<I", 8)
    keys += text(b"ab")
    assert len(keys) == 64
    count = struct.unpack_from("<Q", gguf, 16)[0]
    return gguf[:16] + struct.pack("<Q", count + 2) + keys + gguf[24:]


def test_sampling_advice(model, folder, cache):
    """What the makers of a model advise holds where no flag says otherwise."""
    advised, gguf = os.path.join(folder, "advised"), os.path.join(folder, "advised.gguf")
    shutil.copytree(model, advised)
    with open(os.path.join(advised, "generation_config.json"), "w") as file:
        json.dump({"eos_token_id": END, "temperature": 0.0, "top_p": 0.5}, file)
    check(run("convert", model, gguf).returncode == 0, "convert")
    with open(gguf, "rb") as file:
        data = with_temperature(file.read(), 0.0)
    with open(gguf, "wb") as file:
        file.write(data)
    bias = [f"--logit-bias={i}=-1000" for i in (USER, END, THINK, UNTHINK)]
    for name, path in (("generation_config.json", advised), ("GGUF", gguf)):
        def said(command, *flags):
            if command == "chat":
                return run("chat", path, "-n", "24", *bias, *flags, stdin=b"hi").stdout
            return run("generate", path, "-p", "hi", "-n", "24", *bias, *flags).stdout
        for command in ("chat", "generate"):
            greedy = said(command, "--temp", "0", "--seed", "1")
            check(len(greedy) > 5, f"{name}, {command}: an answer")
            check(said(command, "--seed", "2") == greedy, f"{name}, {command}: the model's temperature is used")
            check(said(command, "--seed", "2", "--temp", "1.5") != greedy, f"{name}, {command}: a flag is stronger")
    t = Terminal(cache, "chat", advised)
    t.prompt()
    t.line("/set")
    t.expect(r"temp +0 +.*the model's.*\n.*top_p +0.5 +.*the model's")
    t.prompt()
    t.type("\x04")
    check(t.end() == 0, "advised leaves")


def test_thinking(folder, cache):
    model = os.path.join(folder, "thinker")
    make_model(model, TEMPLATE.replace("assistant:{%", "assistant:<think>\n{%"))
    bias = ["--temp", "0", "-n", "6", "--logit-bias", f"{END}=-1000"]
    open_end = bias + ["--logit-bias", f"{UNTHINK}=-1000"]
    shut = bias + ["--logit-bias", f"{UNTHINK}=1000"]
    check(run("chat", model, *open_end, stdin=b"hi").stdout == b"", "a pipe does not show thinking")
    check(run("chat", model, *open_end, "--thinking", stdin=b"hi").stdout != b"", "--thinking does")
    check(run("chat", model, *shut, stdin=b"hi").stdout == b"</think>" * 5 + b"\n", "after the tag all is answer")
    t = Terminal(cache, "chat", model, *open_end)
    t.prompt()
    t.line("hi")
    t.expect(r"\x1b\[2m.*\x1b\[0m")
    t.prompt()
    t.type("\x04")
    check(t.end() == 0, "thinker leaves")


def main():
    with tempfile.TemporaryDirectory() as folder:
        model, untrained = os.path.join(folder, "tiny"), os.path.join(folder, "untrained")
        cache = os.path.join(folder, "cache")
        make_model(model)
        make_model(untrained, template=None)
        for test, arguments in [
            (test_pipe, (model,)),
            (test_errors, (model, untrained)),
            (test_generate, (model, folder)),
            (test_interrupted_pipe, (model,)),
            (test_conversation, (model, folder, cache)),
            (test_keys, (model, cache)),
            (test_paste, (model, folder, cache)),
            (test_sampling_advice, (model, folder, cache)),
            (test_thinking, (folder, cache)),
        ]:
            started = time.monotonic()
            try:
                test(*arguments)
            except TimeoutError:
                pass
            print(f"{test.__name__}: {time.monotonic() - started:.1f} s", flush=True)
    return 1 if FAILURES else 0


sys.exit(main())
