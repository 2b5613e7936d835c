"""The embedded stack with a real LiveKit server; the reference agent has a stand-in here."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from lk_users.errors import StackError
from lk_users.local import process, stack
from lk_users.local import server as server_module
from lk_users.local.server import Server, find_or_build
from lk_users.local.stack import Stack, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 20.0

AGENT = """
import os, signal, sys, time
assert os.environ["LIVEKIT_URL"].startswith("ws://127.0.0.1:") and os.environ["LIVEKIT_API_SECRET"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready 4 workers")
while True:
    time.sleep(60)
"""
AGENT_COMMAND = [sys.executable, "-c", AGENT]
NEVER_READY = [sys.executable, "-c", "import time; print('not yet'); time.sleep(60)"]

# run() as a program of its own, so that signals can be sent to it.
RUNNER = """
import json, sys
from lk_users.local.stack import run
agent, *command = json.loads(sys.argv[1])
sys.exit(run(command, agent_command=agent))
"""

# Tells its pid, reads a line where there is one, counts the SIGINTs of half a second after the first.
COUNTER = """
import os, signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(time.monotonic()))
print("pid", os.getpid(), flush=True)
if sys.argv[1:]:
    print("line", sys.stdin.readline().strip(), flush=True)
while not seen or time.monotonic() < seen[0] + 0.5:
    time.sleep(0.02)
print("interrupts", len(seen), flush=True)
sys.exit(40 + len(seen))
"""

DEAF = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("first", flush=True))
print("up", flush=True)
while True:
    time.sleep(60)
"""


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """What ``look`` finds, once it finds something."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.02)
    return found


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def children(pid: int | None = None) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def wait_until_gone(pid: int) -> None:
    wait_for(lambda: is_gone(pid), f"end of {pid}")


def wait_until_it_says(out: Path, start: str) -> None:
    wait_for(lambda: out.read_text().startswith(start), f"{start!r} in the output")


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return (answer.status, answer.read()) == (200, b"OK")
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def temp_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that log folders are made in; also for programs that a test starts."""
    root = tmp_path / "temp"
    root.mkdir()
    monkeypatch.setenv("TMPDIR", str(root))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return root


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = children()
    yield
    assert [pid for pid in children() if pid not in before] == []


@pytest.fixture(scope="session")
def binary() -> Path:
    return find_or_build(None, print)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a command's output goes: a file can be looked at with a deadline."""
    return tmp_path / "out"


@contextlib.contextmanager
def runner(*command: str, agent: list[str] | None = None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """run() in a process of its own; whatever a test leaves of it is killed."""
    arguments = json.dumps([agent or AGENT_COMMAND, *command])
    child = subprocess.Popen([sys.executable, "-c", RUNNER, arguments], text=True, **options)
    started = []
    try:
        yield child
    finally:
        started = children(child.pid)
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()
        for pid in started:
            wait_until_gone(pid)


# --- the server ---


@pytest.mark.real
@pytest.mark.parametrize("udp_port", [False, True])
def test_server_answers_and_stops(udp_port: bool, binary: Path, tmp_path: Path) -> None:
    with Server(binary, tmp_path / "log", udp_port=udp_port) as server:
        assert answers(server.port)
        assert server.url == f"ws://127.0.0.1:{server.port}"
        assert server.death() is None
        assert server.pid is not None
        running = psutil.Process(server.pid)
        assert running.cmdline() == [str(binary)]
        # Only loopback, and no socket for media but the one that was asked for.
        addresses = [connection.laddr for connection in running.net_connections()]
        assert {address.ip for address in addresses} == {"127.0.0.1"}
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
        first, last = server_module.media_range(server_module.ephemeral_range())
        media = [address.port for address in addresses if first <= address.port <= last]
        assert len(media) == int(udp_port)
    assert is_gone(running.pid)
    assert not answers(server.port)
    server.stop()
    assert server.pid is None


@pytest.mark.real
def test_refused_configuration_tells_the_servers_own_words(binary: Path, tmp_path: Path) -> None:
    server = Server(binary, tmp_path / "log", extra={"rtc": {"no_such_option": 1}})
    with pytest.raises(StackError, match=r"ended with code \d.*no_such_option"):
        server.start()
    assert server.pid is None


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


def test_server_that_finds_its_port_taken_is_started_anew(tmp_path: Path) -> None:
    ports = tmp_path / "ports"
    fake = script(
        tmp_path / "fake",
        "import json, os\n"
        f"open({str(ports)!r}, 'a').write(str(json.loads(os.environ['LIVEKIT_CONFIG'])['port']) + '\\n')\n"
        "print('listen tcp 127.0.0.1: bind: address already in use')\n",
    )
    with pytest.raises(StackError, match="found its port taken 4 times"):
        Server(fake, tmp_path / "log").start()
    assert len(set(ports.read_text().split())) == 4


def test_another_server_on_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    fake = script(
        tmp_path / "fake",
        "import http.server, json, os\n"
        "class Other(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'OK')\n"
        "    def do_POST(self):\n"
        "        self.send_response(401); self.end_headers()\n"
        f"open({str(starts)!r}, 'a').write('.')\n"
        "port = json.loads(os.environ['LIVEKIT_CONFIG'])['port']\n"
        "http.server.HTTPServer(('127.0.0.1', port), Other).serve_forever()\n",
    )
    with pytest.raises(StackError, match="found its port taken 4 times"):
        Server(fake, tmp_path / "log").start()
    assert starts.read_text() == "...."


def test_a_server_of_before_rtc_v1_is_said_to_be_too_old(
    said: list[str], temp_root: Path, tmp_path: Path
) -> None:
    """As livekit-server 1.8 answers."""
    old = script(
        tmp_path / "old",
        "import http.server, json, os, sys\n"
        "if '--version' in sys.argv: print('livekit-server version 1.8.4'); exit()\n"
        "class Old(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200 if self.path == '/' else 404); self.end_headers()\n"
        "        self.wfile.write(b'OK')\n"
        "    def do_POST(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
        "port = json.loads(os.environ['LIVEKIT_CONFIG'])['port']\n"
        "http.server.HTTPServer(('127.0.0.1', port), Old).serve_forever()\n",
    )
    before = children()
    with pytest.raises(StackError, match=r"LiveKit server 1\.8\.4 \(.*/old\) is too old .*1\.9\.11 say, "):
        Stack(server_binary=str(old), say=said.append).start()
    assert children() == before
    # An agent that is not ours may join by /rtc.
    with Stack(server_binary=str(old), agent_command=AGENT_COMMAND, say=said.append):
        pass


def test_server_that_dies_or_never_answers_is_an_error_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StackError, match=r"ended with code 3; the end of its log: out of luck"):
        Server(script(tmp_path / "dies", "print('out of luck'); exit(3)"), tmp_path / "log").start()
    monkeypatch.setattr(server_module, "READY_S", 0.3)
    with pytest.raises(StackError, match=r"gave no answer within 0 s; its log is empty"):
        Server(script(tmp_path / "mute", "import time; time.sleep(60)"), tmp_path / "log").start()
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(StackError, match=r"cannot start .*/text: Exec format error"):
        Server(tmp_path / "text", tmp_path / "log").start()


def test_child_may_open_as_many_files_as_the_hard_limit_allows(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    tell = [sys.executable, "-c", "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 100, hard))
    try:
        for many, expected in ((False, hard - 100), (True, hard)):
            child = process.spawn(tell, env=os.environ, log=tmp_path / "log", many_files=many)
            assert child.wait(DEADLINE_S) == 0
            assert (tmp_path / "log").read_text() == f"{expected} {hard}\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stop_insists_and_then_kills(tmp_path: Path) -> None:
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('term', flush=True))\n"
        "helper = subprocess.Popen(['sleep', '60'])\n"
        "print('helper', helper.pid, flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    log = tmp_path / "log"
    child = process.spawn([sys.executable, "-c", program], env=os.environ, log=log)
    wait_for(lambda: process.tail(log), "the helper's pid")
    helper = int(process.tail(log)[0].split()[1])
    process.stop(child, deadline_s=1.0, insist_after_s=0.3)
    assert process.tail(log)[1:] == ["term", "term"]
    assert child.returncode == -signal.SIGKILL
    wait_until_gone(helper)
    process.stop(child)


# --- the stack ---


@pytest.mark.real
def test_two_stacks_at_once_share_nothing(said: list[str], temp_root: Path) -> None:
    with (
        Stack(agent_command=AGENT_COMMAND, say=said.append) as one,
        Stack(agent_command=AGENT_COMMAND, say=said.append) as two,
    ):
        assert answers(one.server.port)
        assert answers(two.server.port)
        mine, other = one.env(), two.env()
        assert set(mine) == {"LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"}
        assert mine["LIVEKIT_URL"] == one.server.url
        assert all(mine[name] != other[name] for name in mine)
        pids = [*one.pids().values(), *two.pids().values()]
        assert len(set(pids)) == 4
        assert one.deaths() == two.deaths() == []
        assert len(list(temp_root.iterdir())) == 2
    assert all(is_gone(pid) for pid in pids)
    assert one.pids() == {}
    assert list(temp_root.iterdir()) == []
    assert len(said) == 4
    assert said[0].startswith("LiveKit server 1.")
    assert f"ready on 127.0.0.1:{mine['LIVEKIT_URL'].rpartition(':')[2]} (" in said[0]
    assert said[1].startswith('reference agent "welcome", 4 workers, ready (')


@pytest.mark.real
@pytest.mark.parametrize(
    ("agent", "fault"),
    [
        ("print('no such key'); exit(1)", "ended with code 1 before it was ready; .*no such key"),
        ("print('ready 3 workers'); import time; time.sleep(60)", "not ready within 1 s; .*ready 3 workers"),
    ],
)
def test_agent_that_fails_leaves_nothing_but_its_log(
    agent: str, fault: str, said: list[str], temp_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "AGENT_READY_S", 1.0)
    before = children()
    with pytest.raises(StackError, match=f"the reference agent (was )?{fault}"):
        Stack(agent_command=[sys.executable, "-c", agent], say=said.append).start()
    assert children() == before
    [logs] = temp_root.iterdir()
    assert said[-1] == f"logs of server and agent: {logs}"
    assert sorted(path.name for path in logs.iterdir()) == ["agent.log", "server.log"]


@pytest.mark.real
def test_a_part_that_dies_is_told_once_and_its_log_kept(said: list[str], tmp_path: Path) -> None:
    log_dir = tmp_path / "a" / "logs"
    with Stack(agent_command=AGENT_COMMAND, say=said.append, log_dir=log_dir) as up:
        os.kill(up.pids()["agent"], signal.SIGKILL)
        [death] = wait_for(up.deaths, "the agent's death")
        assert death == "the reference agent was killed by SIGKILL; the end of its log: ready 4 workers"
        assert up.deaths() == []
    assert said[2:] == [death, f"logs of server and agent: {log_dir}"]
    assert (log_dir / "agent.log").read_text() == "ready 4 workers\n"


# --- a command with the stack around it ---


@pytest.mark.real
@pytest.mark.parametrize(("body", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_run_returns_the_commands_exit_code(
    body: str, code: int, said: list[str], tmp_path: Path, temp_root: Path
) -> None:
    seen = tmp_path / "seen"
    body = f'echo "$LIVEKIT_URL $LIVEKIT_API_KEY ${{#LIVEKIT_API_SECRET}}" > {seen}; {body}'
    assert run(["sh", "-c", body], agent_command=AGENT_COMMAND, say=said.append) == code
    url, key, secret_length = seen.read_text().split()
    assert url.removeprefix("ws://") in said[0]
    assert key.startswith("API")
    assert int(secret_length) >= 32
    assert len(list(temp_root.iterdir())) == (0 if code == 0 else 1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_run_refuses_a_command_that_does_not_exist(said: list[str]) -> None:
    with pytest.raises(StackError, match="no such command: no-such-command"):
        run(["no-such-command"], say=said.append)
    assert said == []


@pytest.mark.real
def test_run_tells_a_dead_server_and_leaves_the_verdict_to_the_command(
    said: list[str], tmp_path: Path
) -> None:
    told = tmp_path / "told"
    kill_server = (
        "import os, psutil, sys, time\n"
        "servers = [c for c in psutil.Process(os.getppid()).children() if 'livekit' in c.name()]\n"
        "server = max(servers, key=lambda child: child.create_time())\n"
        "server.kill()\n"
        "deadline = time.monotonic() + 10\n"
        f"while not os.path.exists({str(told)!r}):\n"
        "    time.sleep(0.02) if time.monotonic() < deadline else sys.exit('was not told meanwhile')\n"
        "sys.exit(10)\n"
    )

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("the LiveKit server was killed by SIGKILL; "):
            told.touch()

    assert run([sys.executable, "-c", kill_server], agent_command=AGENT_COMMAND, say=say) == 10
    assert len(said) == 4
    assert said[-1].startswith("logs of server and agent: ")


@pytest.mark.real
def test_run_ends_what_the_command_left_running(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = ["sh", "-c", f"sleep 60 & echo $! > {pid_file}"]
    assert run(command, agent_command=AGENT_COMMAND, say=lambda _: None) == 0
    wait_until_gone(int(pid_file.read_text()))


@pytest.mark.real
def test_sigterm_to_run_ends_everything(temp_root: Path) -> None:
    with runner("sleep", "60", stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: len(children(running.pid)) == 3, "server, agent and command")
        parts = children(running.pid)
        running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE_S) == 143
        assert all(is_gone(pid) for pid in parts)
    assert list(temp_root.iterdir()) == []


@pytest.mark.real
def test_sigterm_during_the_start_ends_everything(temp_root: Path) -> None:
    with runner("sleep", "60", agent=NEVER_READY, stderr=subprocess.PIPE) as running:
        wait_for(lambda: len(children(running.pid)) == 2, "server and agent")
        parts = children(running.pid)
        running.send_signal(signal.SIGTERM)
        _, lines = running.communicate(timeout=DEADLINE_S)
        assert running.returncode == 143
        assert "Traceback" not in lines
        assert all(is_gone(pid) for pid in parts)
    assert list(temp_root.iterdir()) == []


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_sigkill_of_run_leaves_nothing() -> None:
    with runner("sleep", "60", stderr=subprocess.DEVNULL) as running:
        wait_for(lambda: len(children(running.pid)) == 3, "server, agent and command")
        parts = children(running.pid)
        assert "livekit-server" in {psutil.Process(pid).name() for pid in parts}
        running.kill()
        running.wait()
        for pid in parts:
            wait_until_gone(pid)


@pytest.mark.real
def test_a_sigint_to_run_alone_reaches_the_command_once(out: Path) -> None:
    with out.open("w") as stdout, runner(sys.executable, "-c", COUNTER, stdout=stdout) as running:
        wait_until_it_says(out, "pid ")
        running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 41
    assert out.read_text().splitlines()[1:] == ["interrupts 1"]


@pytest.mark.real
def test_a_sigint_reaches_what_a_shell_runs(out: Path, tmp_path: Path) -> None:
    (tmp_path / "counter.py").write_text(COUNTER)
    command = f"{sys.executable} {tmp_path / 'counter.py'}; exit 9"
    with out.open("w") as stdout, runner("sh", "-c", command, stdout=stdout) as running:
        wait_until_it_says(out, "pid ")
        running.send_signal(signal.SIGINT)
        running.wait(DEADLINE_S)
    assert out.read_text().splitlines()[1:] == ["interrupts 1"]


@pytest.mark.real
def test_a_second_sigint_kills_the_command(out: Path) -> None:
    with out.open("w") as stdout, runner(sys.executable, "-c", DEAF, stdout=stdout) as running:
        for line in ("up\n", "up\nfirst\n"):
            wait_until_it_says(out, line)
            running.send_signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 137


@pytest.mark.real
def test_a_terminals_ctrl_c_reaches_the_command_once_and_it_can_read_the_terminal() -> None:
    arguments = json.dumps([AGENT_COMMAND, sys.executable, "-c", COUNTER, "read a line"])
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", RUNNER, arguments])
    text = ""
    try:
        for expected, answer in (("pid ", "hello\n"), ("line hello", "\x03"), ("interrupts 1", "")):
            while expected not in text:
                wait_for(lambda: select.select([terminal], [], [], 0)[0], "more from the terminal")
                text += os.read(terminal, 4096).decode()
            os.write(terminal, answer.encode())
        status = wait_for(lambda: (done := os.waitpid(pid, os.WNOHANG))[0] and done, "end of run")[1]
        pid = 0
        assert os.waitstatus_to_exitcode(status) == 41
    finally:
        os.close(terminal)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
