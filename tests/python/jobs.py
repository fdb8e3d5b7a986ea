"""`scratch run` at a terminal, with an interactive bash in between: what job control must do.

SCRATCH names the program. Prints a line for each case, and ends with status 1 if one did not hold. The terminal echoes
nothing, so all that is read was written by the shell or a command; what has no order among itself is expected in any order.
"""

import fcntl
import itertools
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

DEADLINE_SECONDS = 30
PROMPT = "<shell> "
INTERRUPT, STOP, END_OF_INPUT = "\x03", "\x1a", "\x04"

# Says which signals it gets, and ends with the one that nothing but this test sends.
COUNT = """
import os, signal
mask = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGWINCH, signal.SIGUSR1]
signal.pthread_sigmask(signal.SIG_BLOCK, mask)
print(f"wrapper={os.getppid()}", flush=True)
got = None
while got != signal.SIGUSR1:
    got = signal.Signals(signal.sigwait(mask))
    print(f"got {got.name}", flush=True)
"""


class Missing(Exception):
    """What was expected did not come."""


class Terminal:
    """A terminal with a shell, and a named pipe, $GO, that a command can wait on."""

    numbers = itertools.count()

    def __init__(self):
        self.go = os.path.abspath(f"go-{next(self.numbers)}")
        os.mkfifo(self.go, 0o600)
        # Both ends, so that nobody blocks who opens one.
        self.pipe = os.open(self.go, os.O_RDWR | os.O_CLOEXEC)
        self.text, self.mark = "", 0
        self.shell, self.fd = pty.fork()
        if self.shell == 0:
            environment = {**os.environ, "PS1": PROMPT, "TERM": "dumb", "GO": self.go, "PYTHON": sys.executable}
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        self.resize(200)
        self.expect(PROMPT)
        # Without NOFLSH a key that makes a signal throws away what is on its way.
        self.run("stty -echo noflsh")
        self.expect(PROMPT)

    def key(self, keys):
        os.write(self.fd, keys.encode())

    def run(self, line):
        """Gives the shell, or whoever has the terminal, a line."""
        self.key(line + "\n")

    def resize(self, columns):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def release(self):
        """Lets go who waits on $GO."""
        os.write(self.pipe, b"\n")

    def expect(self, *patterns):
        """Reads until all patterns have come, in any order; returns the first one's match."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            found = [re.search(pattern, self.text[self.mark :]) for pattern in patterns]
            if all(found):
                self.mark += max(match.end() for match in found)
                return found[0]
            missing = [pattern for pattern, match in zip(patterns, found) if not match]
            readable, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not readable:
                raise Missing(f"no {missing} in {self.text[self.mark :]!r}")
            try:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                raise Missing(f"the terminal was closed before {missing}, after {self.text[self.mark :]!r}") from None

    def number(self, name):
        """The number in `name=number`."""
        return int(self.expect(rf"{name}=(\d+)\r")[1])

    def code(self):
        """What the shell says of the last command."""
        self.run("echo code=$?")
        return int(self.expect(r"code=(\d+)\r", PROMPT)[1])

    def jobs(self):
        """What the shell says of its jobs."""
        start = self.mark
        self.run("jobs")
        self.expect(PROMPT)
        return self.text[start : self.mark]

    def hang_up(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def close(self):
        self.hang_up()
        os.close(self.pipe)
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)


def check(what, holds, found=None):
    if not holds:
        raise Missing(what + ("" if found is None else f": found {found!r}"))


def eventually(what, holds):
    """For what can only be looked at."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        check(what, time.monotonic() < deadline)
        time.sleep(0.005)


def wait_for_end(pidfd):
    check("a process ends", select.select([pidfd], [], [], DEADLINE_SECONDS)[0])
    os.close(pidfd)


def state(process):
    """One letter; T is stopped."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def stopped_is(process, stopped):
    eventually(f"{process} is {'' if stopped else 'not '}stopped", lambda: (state(process) == "T") == stopped)


CASES = []


def case(function):
    CASES.append(function)
    return function


@case
def ctrl_c_ends_the_command(t):
    t.run("$SCRATCH run -- sh -c 'echo up; exec cat'")
    t.expect("up\r")
    t.key(INTERRUPT)
    t.expect(PROMPT)
    check("128 and the signal's number", t.code() == 130)


@case
def ctrl_c_reaches_the_command_once(t):
    t.run("$SCRATCH run -- $PYTHON count.py")
    wrapper = t.number("wrapper")
    start = t.mark
    t.key(INTERRUPT)
    t.expect("got SIGINT\r")
    os.kill(wrapper, signal.SIGUSR1)
    t.expect("got SIGUSR1\r", PROMPT)
    check("once", t.text[start:].count("got SIGINT") == 1, t.text[start:])


@case
def ctrl_c_ends_a_scripts_loop(t):
    script = 'for i in 1 2 3; do "$SCRATCH" run -- sh -c "echo up; exec cat"; echo again; done'
    t.run(f"sh -c '{script}'")
    t.expect("up\r")
    start = t.mark
    t.key(INTERRUPT)
    t.expect(PROMPT)
    check("the loop does not go on", "again" not in t.text[start:], t.text[start:])


@case
def ctrl_z_and_fg(t):
    t.run("$SCRATCH run -- sh -c 'echo up; exec cat'")
    t.expect("up\r")
    t.key(STOP)
    t.expect("Stopped", PROMPT)
    t.run("fg")
    t.run("hello")
    t.expect("hello\r")
    t.key(END_OF_INPUT)
    t.expect(PROMPT)
    check("the command's code", t.code() == 0)


@case
def ctrl_z_and_fg_again_and_again(t):
    t.run("$SCRATCH run -- cat")
    for number in range(20):
        t.run(f"line{number}")
        t.expect(f"line{number}\r")
        t.key(STOP)
        t.expect("Stopped", PROMPT)
        t.run("fg")
    t.key(END_OF_INPUT)
    t.expect(PROMPT)


@case
def ctrl_z_and_bg(t):
    t.run("""$SCRATCH run -- sh -c 'echo up; read line <"$GO"; echo end; exit 4'""")
    t.expect("up\r")
    t.key(STOP)
    t.expect("Stopped", PROMPT)
    t.run("bg")
    t.expect(PROMPT)
    t.release()
    t.run("wait %1; echo code=$?")
    t.expect("end\r", "code=4\r", PROMPT)


@case
def ctrl_z_that_the_command_ignores(t):
    t.run("""$SCRATCH run -- sh -c 'trap "" TSTP; echo up; read line; echo read=$line; read line; exit 5'""")
    t.expect("up\r")
    start = t.mark
    t.key(STOP)
    t.run("one")
    t.expect("read=one\r")
    t.run("two")
    t.expect(PROMPT)
    check("it keeps the terminal", "Stopped" not in t.text[start:] and t.code() == 5, t.text[start:])


@case
def a_command_that_stops_itself(t):
    t.run("""$SCRATCH run -- $PYTHON -c 'import os; os.kill(os.getpid(), 20); print("resumed")'""")
    t.expect("Stopped", PROMPT)
    t.run("fg")
    t.expect("resumed\r", PROMPT)


@case
def reading_in_the_background_stops_it(t):
    t.run("$SCRATCH run -- cat & echo pid=$!")
    wrapper = t.number("pid")
    t.expect(PROMPT)
    stopped_is(wrapper, True)
    t.run("jobs")
    t.expect("Stopped", PROMPT)
    t.run("fg")
    t.run("hello")
    t.expect("hello\r")
    t.key(END_OF_INPUT)
    t.expect(PROMPT)


@case
def a_stop_of_the_wrapper_stops_the_job(t):
    t.run("""$SCRATCH run -- sh -c 'echo up; read line <"$GO"; exit 3' & echo pid=$!""")
    wrapper = int(t.expect(r"pid=(\d+)\r", "up\r", PROMPT)[1])
    os.kill(wrapper, signal.SIGTSTP)
    stopped_is(wrapper, True)
    t.run("jobs")
    t.expect("Stopped", PROMPT)
    os.kill(wrapper, signal.SIGCONT)
    # The shell is told a moment later than /proc, and would not wait for a job that it thinks is stopped.
    eventually("the shell knows", lambda: "Running" in t.jobs())
    t.release()
    t.run("wait %1; echo code=$?")
    t.expect("code=3\r", PROMPT)


@case
def a_stop_of_the_command_alone_is_its_own(t):
    command = r'''"$SCRATCH" run -- sh -c "echo pid=\$\$; read line <\"\$GO\"; exit 6" & wait $!; echo code=$?'''
    t.run(f"sh -c '{command}'")
    pid = t.number("pid")
    os.kill(pid, signal.SIGSTOP)
    stopped_is(pid, True)
    os.kill(pid, signal.SIGCONT)
    stopped_is(pid, False)
    t.release()
    t.expect("code=6\r", PROMPT)


@case
def a_signal_from_its_own_group_reaches_the_command_once(t):
    t.run("""sh -c '$SCRATCH run -- $PYTHON count.py & read line <"$GO"; kill -TERM $!; wait $!; echo code=$?'""")
    wrapper = t.number("wrapper")
    start = t.mark
    t.release()
    t.expect("got SIGTERM\r")
    os.kill(wrapper, signal.SIGUSR1)
    t.expect("got SIGUSR1\r", "code=0\r", PROMPT)
    check("once", t.text[start:].count("got SIGTERM") == 1, t.text[start:])


@case
def a_new_window_size_reaches_the_command_once(t):
    t.run("$SCRATCH run -- $PYTHON count.py")
    wrapper = t.number("wrapper")
    start = t.mark
    t.resize(90)
    t.expect("got SIGWINCH\r")
    os.kill(wrapper, signal.SIGUSR1)
    t.expect("got SIGUSR1\r", PROMPT)
    check("once", t.text[start:].count("got SIGWINCH") == 1, t.text[start:])


@case
def a_killed_wrapper_gives_the_terminal_back(t):
    script = 'echo area=$TMPDIR; echo $PPID,$$,; read line <"$GO"; test -d "$TMPDIR" && echo alive'
    t.run(f"$SCRATCH run -- sh -c '{script}'")
    area = t.expect(r"area=(\S+)\r")[1]
    found = t.expect(r"(\d+),(\d+),\r")
    command = os.pidfd_open(int(found[2]))
    os.kill(int(found[1]), signal.SIGKILL)
    t.expect("Killed", PROMPT)
    check("the area stays", os.path.isdir(area))
    t.release()
    t.expect("alive\r")
    wait_for_end(command)
    eventually("the area goes with its command", lambda: not os.path.lexists(area))


@case
def a_terminal_that_hangs_up_ends_it_all(t):
    t.run("""$SCRATCH run -- sh -c 'echo area=$TMPDIR; echo wrapper=$PPID; read line <"$GO"'""")
    area = t.expect(r"area=(\S+)\r")[1]
    wrapper = os.pidfd_open(t.number("wrapper"))
    t.hang_up()
    wait_for_end(wrapper)
    check("the area is gone when the wrapper is", not os.path.lexists(area))


@case
def a_pipeline_shares_the_terminal(t):
    t.run("$SCRATCH run -- sh -c 'echo one; echo two' | sh -c 'cat; read line </dev/tty; echo read=$line'")
    start = t.mark
    t.run("three")
    t.expect("one\r", "two\r", "read=three\r", PROMPT)
    check("nothing was stopped", "Stopped" not in t.text[start:], t.text[start:])


@case
def timeout_around_it_and_inside_of_it(t):
    t.run("timeout 0.2 $SCRATCH run -- sleep 100000; echo code=$?")
    t.expect("code=124\r", PROMPT)
    t.run("$SCRATCH run -- timeout 0.2 sleep 100000; echo code=$?")
    t.expect("code=124\r", PROMPT)


@case
def an_interactive_shell_under_it_has_job_control(t):
    t.run("PS1='<inner> ' $SCRATCH run -- bash --norc --noprofile --noediting -i")
    t.expect("<inner> ")
    t.run("cat")
    t.run("hello")
    t.expect("hello\r")
    t.key(STOP)
    t.expect("Stopped", "<inner> ")
    t.run("fg")
    t.run("again")
    t.expect("again\r")
    t.key(END_OF_INPUT)
    t.expect("<inner> ")
    t.run("exit 6")
    t.expect(PROMPT)
    check("the shell's code", t.code() == 6)


def main():
    with open("count.py", "w") as file:
        file.write(COUNT)
    failed = False
    for function in CASES:
        what = function.__name__.replace("_", " ")
        terminal = Terminal()
        try:
            function(terminal)
            print(f"ok {what}", flush=True)
        except (Missing, OSError) as error:
            failed = True
            print(f"FAILED {what}: {error}", flush=True)
        finally:
            terminal.close()
    sys.exit(failed)


main()
