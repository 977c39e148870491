import os
import time

from harness import LIMIT, ShimTest


class Load(ShimTest):
    def test_ready_carries_the_time_of_the_first_line(self):
        before = time.monotonic_ns()
        shim = self.start({"main.py": "def handler(event, context): pass"})
        answer = shim.ready()
        self.assertEqual(answer.status, 204)
        self.assertTrue(before < int(answer.headers["Lambent-Start"]) < time.monotonic_ns())

    def test_dotted_module(self):
        files = {"app/__init__.py": "", "app/web.py": "from app.b import x\ndef go(e, c): return x", "app/b.py": "x = 7"}
        shim = self.start(files, handler="app.web.go")
        self.assertEqual(shim.ready().status, 204)
        self.assertEqual(shim.call().body, b"7")

    def test_only_the_bundle_and_the_standard_library_are_importable(self):
        shim = self.shim("import sys\ndef handler(e, c): return sys.path")
        path = shim.call().json()
        self.assertEqual(path[0], os.path.realpath(shim.task))
        self.assertFalse([p for p in path if ("packages" in p and p != "/var/task/site-packages") or p == ""], path)

    def test_failures(self):
        cases = [
            ("module missing", {"app.py": ""}, ["the bundle has no main.py; it holds: app.py"]),
            ("function missing", {"main.py": "def foo(): pass\nclass Bar: pass\nimport sys"},
             ["main.py has no function 'handler'; it defines: foo, Bar"]),
            ("not callable", {"main.py": "handler = {}"}, ["'handler' in main.py is a dict, not a function"]),
            ("raises", {"main.py": "def f():\n  raise ValueError('no luck')\nf()"}, ["ValueError: no luck"]),
            ("syntax", {"main.py": "def handler(:"}, ["SyntaxError"]),
            ("dependency missing", {"main.py": "import requests"}, ["No module named 'requests'", "name it in requirements.txt"]),
            ("exit", {"main.py": "import sys; sys.exit(3)"}, ["SystemExit", "called sys.exit(3) while it was loaded"]),
            ("str raises", {"main.py": "class E(Exception):\n  def __str__(self): raise SystemExit\nraise E"}, ["E: <"]),
            ("shadows json", {"main.py": "import json", "json.py": "1/0"}, ["ZeroDivisionError"]),
            ("shadows what traceback needs", {"main.py": "import token, enum\n1/0", "token.py": "", "enum.py": ""},
             ["ZeroDivisionError"]),
            ("thread that stays", {"main.py": "import threading, time\n"
              "threading.Thread(target=time.sleep, args=(600,)).start()\nhandler = 1"}, ["is a int"]),
        ]  # fmt: skip
        for name, files, parts in cases:
            with self.subTest(name):
                shim = self.start(files)
                answer = shim.ready()
                self.assertEqual(answer.status, 500)
                told = self.check_error(answer, "start_failed", *parts)
                self.assertEqual(shim.process.wait(LIMIT), 1)
                self.assertIn(told["trace"][-1] if told["trace"] else told["message"], shim.stderr())

    def test_the_trace_is_of_the_function_only(self):
        shim = self.start({"main.py": "import b", "b.py": "def f():\n  raise ValueError('no')\nf()"})
        trace = "\n".join(shim.ready().json()["trace"])
        for part in ("Traceback", "main.py", 'b.py", line 2, in f', "ValueError: no"):
            self.assertIn(part, trace)
        self.assertNotIn("importlib", trace)

    def test_a_real_exit_just_ends_the_process(self):
        shim = self.start({"main.py": "import os; os._exit(7)"})
        self.assertEqual(shim.process.wait(LIMIT), 7)
