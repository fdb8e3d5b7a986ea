"""The tour of README.md, run as it is written and compared with what it shows.

`$` is ada, `#` is root, each in one interactive bash from beginning to end. What varies from run to run is recognised by its
form: ids, process numbers, times, sizes, columns. The same id or number in the document has to be the same in the run, and
commands that name one are given that of the run. Python runs against the broker that ada would find; what it prints is in the
block after it. Runs as root, contained; SCRATCH_PROGRAMS names the directory with the programs. Ends with status 1 at the first
difference.
"""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time

DEADLINE_SECONDS = 30
ADA = 1000
HOME = "/tmp/ada"
STUBS = "/tmp/stubs"
# Between what a command says and what the shell says of its jobs; before the next command.
END, PROMPT = "\x1e", "\x1f"
# Lines that were written over, colours; and what the shell says of jobs that have ended, whenever it notices.
UNSEEN = re.compile(r"[^\n]*\r\x1b\[K|\x1b\[[\d;]*m|^\[\d+\][-+]? {2,}[A-Z].*\n", re.MULTILINE)
LOOKS = ("ls ", "scratch ls", "scratch status", "scratch debt")

DATE = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"
ID = r"[a-z2-7]{16}"
NAME = r"tmp[a-z0-9_]{8}"
VARIES = re.compile(
    rf"(?P<time>{TIME})|(?P<tries>\d+(?=\s+{TIME}))|(?P<date>{DATE})|(?P<size>\d+(?= {DATE}))|(?P<tree>\d+(?=\.\d+\.{ID}))"
    rf"|(?P<id>\b{ID}\b)|(?P<name>\b{NAME}\b)|(?P<pid>(?<=pid )\d+|(?<=\"pid\":)\d+|(?<=^\[\d\] )\d+)|(?P<gap> {{2,}})",
    re.MULTILINE,
)
FORMS = {"time": TIME, "tries": r"\d+", "date": DATE, "size": r"\d+", "tree": r"\d+", "gap": " {2,}"}
NAMES = {"id": ID, "name": NAME, "pid": r"\d+"}


class Differs(Exception):
    """The run is not what the document shows."""


class Names:
    """Ids and process numbers: those of the document, and what they are in this run."""

    def __init__(self):
        self.known = {}

    def pattern(self, shown):
        """A pattern for what is shown, and the names in it that are new, in the order of its groups."""
        pattern, new, at = "", [], 0
        for found in VARIES.finditer(shown):
            kind, text = found.lastgroup, found[0]
            pattern += re.escape(shown[at : found.start()])
            at = found.end()
            if kind in FORMS:
                pattern += FORMS[kind]
            elif text in self.known:
                pattern += re.escape(self.known[text])
            elif text in new:
                pattern += rf"\{new.index(text) + 1}"
            else:
                new.append(text)
                pattern += f"({NAMES[kind]})"
        return pattern + re.escape(shown[at:]), new

    def match(self, shown, said):
        pattern, new = self.pattern(shown)
        found = re.fullmatch(pattern, said)
        if not found or len(set(found.groups())) < len(new) or set(found.groups()) & set(self.known.values()):
            return False
        self.known.update(zip(new, found.groups()))
        return True

    def of_this_run(self, command):
        return re.sub(r"\b[a-z0-9_]+\b", lambda word: self.known.get(word[0], word[0]), command)


class Shell:
    """An interactive bash at a terminal that echoes nothing."""

    def __init__(self, user, directory):
        self.text = ""
        self.process, self.fd = pty.fork()
        if self.process == 0:
            os.chdir(directory)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            prompt = {"PS1": PROMPT, "PROMPT_COMMAND": f"printf '{END}'"}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], {**environment(user), **prompt})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 200, 0, 0))
        self.read_to(PROMPT)
        self.run("stty -echo -onlcr")

    def read(self, deadline):
        """More of what is written; false when nothing more came in time."""
        readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
        if readable:
            self.text += os.read(self.fd, 4096).decode(errors="replace")
        return bool(readable)

    def read_to(self, mark):
        deadline = time.monotonic() + DEADLINE_SECONDS
        while mark not in self.text:
            if not self.read(deadline):
                raise Differs(f"the shell does not go on after {self.text!r}")
        said, self.text = self.text.split(mark, 1)
        return UNSEEN.sub("", said)

    def run(self, command):
        """What it says until the shell goes on; what the shell says of jobs that have ended is no part of that."""
        self.text = ""
        os.write(self.fd, command.encode() + b"\n")
        said = self.read_to(END)
        self.read_to(PROMPT)
        return said

    def more(self, deadline):
        """What is said later, in the background."""
        if not self.read(deadline):
            return None
        said, self.text = self.text, ""
        return said


def environment(user):
    programs = os.environ["SCRATCH_PROGRAMS"]
    python = os.path.dirname(sys.executable)
    home = "/root" if user == 0 else HOME
    path = f"{programs}:{python}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": home, "TERM": "dumb", "LC_ALL": "C.UTF-8", "PYTHONPATH": STUBS, "TZ": "UTC"}


def blocks(text):
    """The fenced blocks of the tour: language and lines."""
    tour = re.search(r"^## Ten minutes\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", tour, re.MULTILINE | re.DOTALL)
    return [(fence[1], fence[2]) for fence in fences]


def commands(block):
    """Who, the command, and what is shown after it."""
    found = []
    for line in block.splitlines():
        if line[:2] in ("$ ", "# "):
            found.append((line[0], [line[2:]], []))
        elif found and (line[:2] == "> " or (not found[-1][2] and found[-1][1][-1].endswith("\\"))):
            found[-1][1].append(line.removeprefix("> "))
        else:
            found[-1][2].append(line)
    return [(who, "\n".join(command), "".join(line + "\n" for line in shown)) for who, command, shown in found]


def last_look(command):
    """The last of several commands, if it only looks: then it may be given again."""
    last = re.split(r"; (?=[^'\"]*$)", command)[-1]
    return last if last.startswith(LOOKS) and "$TMPDIR" not in last else None


def run(shell, names, command, shown):
    deadline = time.monotonic() + DEADLINE_SECONDS
    command = names.of_this_run(command)
    said = shell.run(command)
    first, look = said, last_look(command)
    while not names.match(shown, said):
        if time.monotonic() > deadline:
            raise Differs(f"{command}\n--- the document shows\n{shown}--- it says\n{first if look else said}---")
        if look:
            # Background jobs take their time, which a reader gives them.
            time.sleep(0.05)
            said = shell.run(look)
        else:
            said += shell.more(deadline) or ""
    print(f"ok {command}", flush=True)


def run_python(program, shown, names):
    directory = next((place for place in ("/run/scratchd", f"/tmp/scratchd-{ADA}") if os.path.exists(place)), None)
    if directory is None:
        raise Differs("a program in Python needs a broker, and the tour has started none before it")
    env = {**environment(ADA), "SCRATCHD_RUNTIME_DIR": directory}
    ids = {"user": ADA, "group": ADA, "extra_groups": []}
    result = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=HOME, text=True, capture_output=True, timeout=DEADLINE_SECONDS, **ids
    )
    if result.returncode != 0 or not names.match(shown, result.stdout):
        said = result.stdout + result.stderr
        raise Differs(f"{program}\n--- the document shows\n{shown}--- it says\n{said}---")
    print("ok a program in Python", flush=True)


def mount(*arguments):
    subprocess.run(["mount", "-n", *arguments], check=True)


def make_ada():
    """A user, in this mount namespace alone."""
    for name, line in (("passwd", f"ada:x:{ADA}:{ADA}::{HOME}:/bin/bash"), ("group", f"ada:x:{ADA}:")):
        with open(f"/etc/{name}", encoding="utf-8") as file:
            others = [other for other in file.read().splitlines() if f":{ADA}:" not in other and other[:4] != "ada:"]
        with open(f"/tmp/{name}", "w", encoding="utf-8") as file:
            file.write("\n".join([*others, line, ""]))
        mount("--bind", f"/tmp/{name}", f"/etc/{name}")
    shutil.copytree("proto", f"{HOME}/proto")
    for place, directories, files in os.walk(HOME):
        for name in [".", *directories, *files]:
            os.chown(os.path.join(place, name), ADA, ADA)


def show(path):
    """Makes a directory reachable by every user, also out of a private home."""
    path = os.path.realpath(path)
    parts = path.split("/")
    for count in range(2, len(parts) + 1):
        place = "/".join(parts[:count])
        if not os.stat(place).st_mode & 0o001:
            kept = os.open(path, os.O_PATH)
            mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", place)
            os.makedirs(path, exist_ok=True)
            # By number in this process: mount(8) has no descriptor of ours.
            mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{kept}", path)
            os.close(kept)
            return


def make_stubs():
    os.mkdir(STUBS)
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", f"--python_out={STUBS}", f"--grpc_python_out={STUBS}"]
    files = [f"scratchd/v1/{name}" for name in os.listdir("proto/scratchd/v1") if name.endswith(".proto")]
    subprocess.run([*protoc, *files], check=True)


def main():
    with open("README.md", encoding="utf-8") as file:
        tour = blocks(file.read())
    make_stubs()
    make_ada()
    show(sys.base_prefix)
    show(sys.prefix)
    # Where a broker for the whole machine has its pool; everything is read-only here.
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/lib")
    names, shells = Names(), {"$": Shell(ADA, HOME), "#": Shell(0, "/tmp")}
    following = [*tour[1:], ("", "")]
    for (language, block), (_, after) in zip(tour, following):
        if language == "console":
            for who, command, shown in commands(block):
                run(shells[who], names, command, shown)
        elif language == "python":
            run_python(block, after, names)
    print(f"ok {sum(language == 'console' for language, _ in tour)} blocks", flush=True)


try:
    main()
except Differs as difference:
    print(f"FAILED {difference}", flush=True)
    sys.exit(1)
