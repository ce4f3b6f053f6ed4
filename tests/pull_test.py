#!/usr/bin/env python3
"""Drives the real `westlake pull` against a hub on loopback: pull_test.py WESTLAKE."""
import glob
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from hub_server import Hub, Repo

WESTLAKE = ""
SMALL = {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b'{"a": 1}', "README.md": b"# card",
         "tokenizer_config.json": b"{}", "pytorch_model.bin": b"pickle", "original/params.json": b"{}"}
WEIGHTS = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(100_000))  # 3.2 MB that no shift leaves equal


def checkpoint(**more):
    return Repo({**SMALL, "model.safetensors": WEIGHTS, **more}, large=["model.safetensors"])


class PullTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cache = self.folder.name

    def tearDown(self):
        self.folder.cleanup()

    def command(self, *words, **variables):
        environment = {name: value for name, value in os.environ.items()
                       if not name.lower().endswith("_proxy") and name not in ("HF_TOKEN", "HF_ENDPOINT")}
        environment.update(WESTLAKE_CACHE=self.cache, **variables)
        return [WESTLAKE, "pull", *words], environment

    def pull(self, hub, *words, **variables):
        words = [*words, "--endpoint", hub.url, "--wait", "0.01"]
        command, environment = self.command(*words, **variables)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    def path(self, *parts):
        return os.path.join(self.cache, "models", *parts)

    def read(self, *parts):
        with open(self.path(*parts), "rb") as file:
            return file.read()

    def parts(self):
        return glob.glob(self.path("**", "*.part"), recursive=True)

    def assertGood(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)

    def assertBad(self, result, *words):
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)

    def test_checkpoint_fresh_then_already_there(self):
        with Hub({"org/model": checkpoint()}) as hub:
            result = self.pull(hub, "org/model")
            self.assertGood(result)
            self.assertEqual(result.stderr, "")  # no terminal: nothing but the result
            self.assertIn(self.path("org--model"), result.stdout)
            files = sorted(os.listdir(self.path("org--model")))
            self.assertEqual(files, ["README.md", "config.json", "model.safetensors", "tokenizer.json",
                                     "tokenizer_config.json"])
            for name in files:
                self.assertEqual(self.read("org--model", name), hub.repos["org/model"].files[name])
            hub.faults.requests.clear()
            again = self.pull(hub, "org/model")
            self.assertGood(again)
            self.assertIn("already here", again.stdout)
            self.assertEqual([p for p, _ in hub.seen("hub") if "/resolve/" in p], [])
            self.assertEqual(hub.seen("cdn"), [])

    def test_damaged_file_is_fetched_again(self):
        with Hub({"org/model": checkpoint()}) as hub:
            self.assertGood(self.pull(hub, "org/model"))
            with open(self.path("org--model", "model.safetensors"), "r+b") as file:
                file.write(b"damage")
            result = self.pull(hub, "org/model")
            self.assertGood(result)
            self.assertNotIn("already here", result.stdout)
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)

    def test_cut_connection_resumes_within_the_command(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.cut_after = [1_000_000, 500_000]
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)
            ranges = [headers.get("Range") for _, headers in hub.seen("cdn")]
            self.assertEqual(ranges, [None, "bytes=1000000-", "bytes=1500000-"])
            self.assertTrue(all("If-Range" in headers for _, headers in hub.seen("cdn")[1:]))

    def test_cut_for_good_says_how_to_go_on_and_the_next_pull_resumes(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.cut_after = [700_000, 0, 0, 0, 0]
            result = self.pull(hub, "org/model", "--tries", "3")
            self.assertBad(result, "700.0 kB of 3.2 MB", "run the same command again")
            self.assertEqual(len(hub.seen("cdn")), 3)
            self.assertEqual([os.path.getsize(part) for part in self.parts()], [700_000])
            self.assertFalse(os.path.exists(self.path("org--model", "model.safetensors")))
            hub.faults.cut_after = []
            hub.faults.requests.clear()
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual([h.get("Range") for _, h in hub.seen("cdn")], ["bytes=700000-"])
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)
            self.assertEqual(self.parts(), [])

    def test_kill_leaves_a_part_that_resumes(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.bytes_per_second = 2_000_000
            command, environment = self.command("org/model", "--endpoint", hub.url)
            child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not any(os.path.getsize(p) > 300_000 for p in self.parts()):
                time.sleep(0.02)
            locked = self.pull(hub, "org/model")
            self.assertBad(locked, "another `westlake pull`")
            child.send_signal(signal.SIGKILL)
            child.wait()
            self.assertFalse(os.path.exists(self.path("org--model", "model.safetensors")))
            sizes = [os.path.getsize(part) for part in self.parts()]
            self.assertEqual(len(sizes), 1)
            hub.faults.bytes_per_second = 0
            hub.faults.requests.clear()
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual([h.get("Range") for _, h in hub.seen("cdn")], ["bytes=%d-" % sizes[0]])
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)

    def test_server_without_ranges_starts_anew(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.ignore_range = True
            hub.faults.cut_after = [900_000]
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)

    def test_other_etag_starts_anew(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.change_etag = True
            hub.faults.cut_after = [900_000]
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)
            self.assertEqual(len(hub.seen("cdn")), 2)

    def test_damaged_part_is_thrown_away(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.cut_after = [900_000]
            self.assertBad(self.pull(hub, "org/model", "--tries", "1"))
            with open(self.parts()[0], "r+b") as file:
                file.write(b"damage")
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)

    def test_part_of_another_version_is_not_mixed_in(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.cut_after = [900_000]
            self.assertBad(self.pull(hub, "org/model", "--tries", "1"))
            hub.repos["org/model"] = new = checkpoint()
            new.files["model.safetensors"] = WEIGHTS[::-1]
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS[::-1])
            self.assertEqual(self.parts(), [])

    def test_wrong_hash(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.corrupt = True
            result = self.pull(hub, "org/model")
            flipped = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
            self.assertBad(result, "wrong sha256", hashlib.sha256(flipped).hexdigest(),
                           hashlib.sha256(WEIGHTS).hexdigest(), "removed")
            self.assertEqual(self.parts(), [])
            self.assertFalse(os.path.exists(self.path("org--model", "model.safetensors")))
            self.assertFalse(os.path.exists(self.path("org--model.json")))

    def test_hash_from_headers_when_the_index_has_none(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.no_blobs = True
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)
            hub.faults.corrupt = True
            os.unlink(self.path("org--model", "model.safetensors"))
            self.assertBad(self.pull(hub, "org/model"), "wrong sha256")

    def test_mirrors_that_know_less(self):
        for fault in ("tree_only", "branches_only"):
            with self.subTest(fault), Hub({"org/" + fault: checkpoint()}) as hub:
                setattr(hub.faults, fault, True)
                self.assertGood(self.pull(hub, "org/" + fault))
                self.assertEqual(self.read("org--" + fault, "model.safetensors"), WEIGHTS)

    def test_no_hash_at_all_is_said(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.no_hashes = True
            result = self.pull(hub, "org/model")
            self.assertGood(result)
            self.assertIn("1 not checked", result.stdout)

    def test_hostile_names(self):
        for number, name in enumerate(["../../evil.safetensors", "/tmp/evil.gguf", "a/../../evil.gguf", "..\\evil.gguf",
                                       "evil\n.gguf", "", "a//b.gguf"]):
            with self.subTest(name), Hub({"org/m%d" % number: checkpoint()}) as hub:
                repo = hub.repos["org/m%d" % number]
                repo.listed = [*repo.files, name]
                repo.files[name] = b"evil"
                self.assertBad(self.pull(hub, "org/m%d" % number), "the hub lists a file named", "Nothing was fetched")
                self.assertEqual([p for p, _ in hub.seen("hub") if "/resolve/" in p], [])
                self.assertFalse(glob.glob(os.path.join(self.cache, "**", "*evil*"), recursive=True))

    def test_names_on_the_command_line(self):
        with Hub({}) as hub:
            for name in ["../x", "a/b/c", "a/..", "org/model:../x.gguf", "org/model@../../x", "nothing"]:
                with self.subTest(name):
                    self.assertBad(self.pull(hub, name), "is no name of a model")
            self.assertEqual(hub.faults.requests, [])

    def test_missing_repository_revision_file(self):
        with Hub({"org/model": checkpoint()}) as hub:
            self.assertBad(self.pull(hub, "org/nothing"), "no such repository, or it is private", "HF_TOKEN")
            self.assertBad(self.pull(hub, "org/nothing", HF_TOKEN=Hub.token), "check the spelling")
            self.assertBad(self.pull(hub, "org/model@v9"), "no revision 'v9'")
            self.assertBad(self.pull(hub, "org/model:x.gguf"), "no GGUF file there fits 'x.gguf'")
            self.assertEqual(len(hub.faults.requests), 4)  # none of these is worth a second try

    def test_pickles_alone(self):
        with Hub({"org/model": Repo(SMALL)}) as hub:
            self.assertBad(self.pull(hub, "org/model"), "no weights this program reads")

    def test_token_opens_and_does_not_leak(self):
        repo = checkpoint()
        repo.private = True
        with Hub({"org/model": repo}) as hub:
            self.assertBad(self.pull(hub, "org/model"), "HF_TOKEN")
            self.assertGood(self.pull(hub, "org/model", HF_TOKEN=Hub.token))
            self.assertTrue(hub.seen("cdn"))
            for _, headers in hub.seen("cdn"):
                self.assertNotIn("Authorization", headers)
                self.assertNotIn(Hub.token, str(headers))

    def test_gated(self):
        repo = checkpoint()
        repo.gated = True
        with Hub({"org/model": repo}) as hub:
            self.assertBad(self.pull(hub, "org/model"), "accept the model's terms", "HF_TOKEN")

    def test_busy_hub(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.statuses, hub.faults.retry_after = [429, 503], 1
            start = time.monotonic()
            self.assertGood(self.pull(hub, "org/model"))
            self.assertGreaterEqual(time.monotonic() - start, 1.0)  # as long as the hub asked for
            hub.faults.statuses, hub.faults.retry_after = [429], 3600
            self.assertBad(self.pull(hub, "org/model"), "429", "3600 s")
            hub.faults.statuses = [503] * 9
            self.assertBad(self.pull(hub, "org/model", "--tries", "2"), "503")
            self.assertEqual(len(hub.faults.statuses), 7)

    def test_busy_cdn(self):
        with Hub({"org/model": checkpoint()}) as hub:
            hub.faults.cdn_statuses = [500, 502]
            self.assertGood(self.pull(hub, "org/model"))
            self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)

    def test_no_hub_there(self):
        with Hub({}) as hub:
            pass
        self.assertBad(self.pull(hub, "org/model", "--tries", "2"), "run the same command again")

    def test_gguf(self):
        files = {"m-Q4_0.gguf": b"four" * 9, "m-Q8_0.gguf": b"eight" * 9, "README.md": b"x", "mmproj-x.gguf": b"eye",
                 "big/m-BF16-00001-of-00002.gguf": b"1" * 9, "big/m-BF16-00002-of-00002.gguf": b"2" * 9}
        with Hub({"org/m-GGUF": Repo(files, large=[f for f in files if f.endswith("gguf")])}) as hub:
            result = self.pull(hub, "org/m-GGUF")
            self.assertBad(result, "3 GGUF files", "m-Q4_0.gguf  36 B", "m-Q8_0.gguf", "in 2 files")
            self.assertNotIn("mmproj", result.stderr)
            self.assertEqual(hub.seen("cdn"), [])
            self.assertGood(self.pull(hub, "org/m-GGUF:m-Q4_0.gguf"))
            self.assertEqual(os.listdir(self.path("org--m-GGUF")), ["m-Q4_0.gguf"])
            self.assertGood(self.pull(hub, "org/m-GGUF:q8_0"))
            self.assertEqual(self.read("org--m-GGUF", "m-Q8_0.gguf"), files["m-Q8_0.gguf"])
            self.assertGood(self.pull(hub, "org/m-GGUF:BF16"))
            self.assertEqual(sorted(os.listdir(self.path("org--m-GGUF", "big"))),
                             ["m-BF16-00001-of-00002.gguf", "m-BF16-00002-of-00002.gguf"])
            with open(self.path("org--m-GGUF.json"), encoding="utf-8") as file:
                self.assertEqual(len(json.load(file)["files"]), 4)

    def test_one_gguf_needs_no_name(self):
        with Hub({"org/one": Repo({"only.gguf": b"x" * 50}, large=["only.gguf"])}) as hub:
            result = self.pull(hub, "org/one")
            self.assertGood(result)
            self.assertIn("only.gguf", result.stdout)

    def test_list(self):
        command, environment = self.command("--list")
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertGood(result)
        for word in ("smollm2-135m-instruct", "98.4 MB", "Apache-2.0", "not here yet"):
            self.assertIn(word, result.stdout)

    def test_full_disk(self):
        mounted = tempfile.mkdtemp()
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", mounted],
                                               capture_output=True).returncode != 0:
            os.rmdir(mounted)
            self.skipTest("SKIPPED: a small tmpfs can be mounted by root only")
        self.cache, filler = mounted, os.path.join(mounted, "filler")
        try:
            with Hub({"org/model": checkpoint(), "org/big": Repo({**SMALL, "model.safetensors": WEIGHTS * 3},
                                                                 large=["model.safetensors"])}) as hub:
                self.assertBad(self.pull(hub, "org/big"), "9.6 MB are needed", "WESTLAKE_CACHE")
                self.assertEqual(hub.seen("cdn"), [])

                def fill():
                    with open(filler, "wb") as file:
                        file.write(bytes(4_500_000))
                hub.faults.before_body = fill
                self.assertBad(self.pull(hub, "org/model"), "No space left", "run the same command again")
                self.assertFalse(os.path.exists(self.path("org--model", "model.safetensors")))
                hub.faults.before_body = None
                os.unlink(filler)
                self.assertGood(self.pull(hub, "org/model"))
                self.assertIn("Range", hub.seen("cdn")[-1][1])
                self.assertEqual(self.read("org--model", "model.safetensors"), WEIGHTS)
        finally:
            subprocess.run(["umount", mounted], check=False)
            os.rmdir(mounted)


if __name__ == "__main__":
    WESTLAKE = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=1)
