"""Progress: in place on a terminal of any size, plain lines elsewhere."""

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import textwrap
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from agile_gym.reporting.charts import duration
from agile_gym.reporting.console import LiveTable, Progress, frame
from tests.helpers.terminals import Screen, Terminal

RECORD = {
    "stage": "grpo", "iteration": 37, "return": 0.4123, "acc": 0.4321, "score": 0.61, "turns": 2.9, "valid": 0.985,
    "learner/entropy": 0.0831, "learner/loss": 0.01, "share_constant": 0.31, "episodes_per_second": 12.44,
    "eval/acc": 0.451, "eval/acc_low": 0.39, "eval/acc_high": 0.513, "eval/score": 0.623,
}  # fmt: skip
BAR = 24 * "\u2501"
ALARM = "The entropy has fallen from 0.12 to 0.004 nats a token. Go on from an earlier checkpoint."


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    opened = []

    def open_terminal(*arguments, **options):
        opened.append(Terminal(*arguments, **options))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


def test_the_table_is_drawn_in_place(terminal):
    screen, clock = terminal(100), Clock()
    with LiveTable(screen.stream, clock=clock) as table:
        table.begin("sft", 10)
        clock.now += 100
        table.update({"iteration": 10, "learner/loss": 0.25})
        screen.read(lambda lines: any("0.2500" in line for line in lines))
        table.begin("grpo", 200, done=30)
        clock.now += 70
        table.update(RECORD)
        table.alarms([ALARM])
        table.print_above("Checkpoint \x1b[2J\nwritten")
        table.status("playing 64 groups")
        lines = screen.read(lambda lines: any("playing" in line for line in lines))
        lines[2] = lines[2].replace("\u257a", "\u2501")  # the colour tells how far the bar is; this, half a place
        assert lines == [
            r"Checkpoint \x1b[2J",
            "written",
            f"GRPO 37/200  {BAR}   18%  2:50 elapsed, 27:10 left",
            "  done: cold start 1:40",
            "  return     +0.412   Acc         43.2%   Score       61.0%   turns        2.90   valid       98.5%",
            "  entropy     0.083   constant    31.0%   episodes/s   12.4",
            "  held-out Acc 45.1% (39.0 to 51.3), Score 62.3% (iteration 37)",
            "  ! The entropy has fallen from 0.12 to 0.004 nats a token. Go on from an earlier checkpoint.",
            "  playing 64 groups",
            "",
        ]
        table.update({**RECORD, "iteration": 38, "acc": 0.5})
        table.alarms([])
    lines = screen.read(lambda lines: "50.0%" in " ".join(lines) and len(lines) == 8)
    assert (lines[0], lines[2][:11]) == (r"Checkpoint \x1b[2J", "GRPO 38/200")
    table.print_above("The end.")
    assert screen.read(lambda lines: "The end." in lines)[-2:] == ["The end.", ""]
    assert "\x1b[33m" in screen.raw


@pytest.mark.parametrize("width", [1, 2, 5, 9, 20, 21, 33, 40, 60, 79, 80, 120, 500])
def test_no_line_is_wrapped_at_any_width(terminal, width):
    screen = terminal(width, 60 if width > 5 else 400)
    with LiveTable(screen.stream) as table:
        table.begin("vision", 3)
        table.update({"iteration": 1, "learner/loss": 1234.5})
        table.begin("grpo", 200)
        for number in range(3):
            table.update({**RECORD, "iteration": number})
            table.alarms([ALARM])
            time.sleep(0.06)
    lines = screen.read(lambda lines: lines[0].startswith("GRPO 2/200"[: width - 1]))
    assert screen.screen.wrapped == 0
    assert sum(line.startswith("GRPO 2/200"[: max(1, width - 1)]) for line in lines) == 1 or width < 9


def test_a_low_window_shows_the_top_of_the_table(terminal):
    screen = terminal(60, 3)
    with LiveTable(screen.stream) as table:
        table.begin("grpo", 200)
        for number in range(4):
            table.update({**RECORD, "iteration": number})
            head = f"GRPO {number}/200"
            lines = screen.read(lambda lines, head=head: lines[0].startswith(head) and lines[-1].strip() == "...")
            assert len(lines) == 3
    lines = screen.read(lambda lines: lines[0].startswith("GRPO 3/200"))
    assert "held-out" in lines[-2]  # at last the whole table is left


def test_resizing_leaves_no_traces(terminal):
    screen = terminal(110)
    with LiveTable(screen.stream) as table:
        table.print_above("above")
        table.begin("grpo", 200)
        for number, width in enumerate((110, 40, 100, 25, 60)):
            screen.screen.resize(width)
            screen.size(width)
            table.update({**RECORD, "iteration": number})
            table.alarms([ALARM])
            screen.read(lambda lines, number=number: any(f"GRPO {number}/200" in line for line in lines))
    lines = screen.read(lambda lines: lines[-1] == "" and "held-out" in " ".join(lines))
    assert len(lines) == 9
    assert lines[0] == "above"
    assert sum("GRPO" in line for line in lines) == sum("held-out" in line for line in lines) == 1


HOSTILE = "[bold red]x[/bold red] [link=file:///etc]y[/link] :smile: {0} \x1b]0;title\x07 \x1b[2J \u202e \r z"
SEEN = r"[bold red]x[/bold red] [link=file:///etc]y[/link] :smile: {0} \x1b]0;title\x07 \x1b[2J \u202e z"


def test_texts_are_no_markup_and_no_commands(terminal):
    screen = terminal(200)
    with LiveTable(screen.stream) as table:
        table.begin(HOSTILE, 3)
        table.update({**RECORD, "iteration": 1})
        table.alarms([HOSTILE])
        table.print_above(HOSTILE.replace("\r", ""))
        table.status(HOSTILE)
        lines = screen.read(lambda lines: lines[-2:] == [f"  {SEEN}", ""])
    assert lines[0] == SEEN
    assert lines[1].startswith("[bold red]x[/bold red] [link=file:///etc]y[/link] :smile: {0} \\x1b]0;title")
    assert f"  ! {SEEN}" in lines
    assert "\x1b]" not in screen.raw
    assert {found[-1] for found in re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", screen.raw)} <= set("AKmhl")


@pytest.mark.parametrize("width", [7, 24, 41, 80])
def test_wide_characters_take_two_columns(terminal, width):
    screen = terminal(width, 200)
    with LiveTable(screen.stream) as table:
        table.begin("\u6f22\u5b57" * 30, 3)
        table.update({**RECORD, "iteration": 1})
        table.alarms(["\u6f22\u5b57" * 50, "e\u0301" * 100])
        table.status("\U0001f600" * 60)
        lines = screen.read(lambda lines: "\u6f22" in " ".join(lines[1:]))
    assert all(cell_len(line) <= width for line in lines)
    assert "\u6f22" in lines[0]


def test_what_is_printed_meanwhile_stands_above_the_table(terminal, monkeypatch):
    screen = terminal(80)
    monkeypatch.setattr("sys.stdout", screen.stream)
    with LiveTable() as table:
        table.begin("grpo", 2)
        screen.read(lambda lines: "GRPO" in lines[0])
        print("[b]from a library[/b]")
        table.update({**RECORD, "iteration": 1})
        screen.read(lambda lines: lines[0] == "[b]from a library[/b]" and lines[1].startswith("GRPO 1/2"))
    assert sys.stdout is screen.stream


def test_clocks_go_on_by_themselves(terminal):
    screen, clock = terminal(80), Clock()
    with LiveTable(screen.stream, clock=clock) as table:
        table.begin("grpo", 4)
        screen.read(lambda lines: "0:00 elapsed" in lines[0])
        clock.now += 65
        screen.read(lambda lines: "1:05 elapsed" in lines[0])


def test_colours_can_be_off(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal(80, encoding="ascii")
    with LiveTable(screen.stream) as table:
        table.begin("grpo", 2)
        table.update({**RECORD, "iteration": 1})
        table.alarms(["Gr\u00fc\u00dfe"])
        table.print_above("\u6f22")
    screen.read(lambda lines: "Acc" in " ".join(lines))
    styles = set(re.findall(r"\x1b\[([\d;]*)m", screen.raw))
    assert styles == {"0", "1", "2"} & styles  # bold and dim are no colours
    assert f"GRPO 1/2  {12 * '-'}  " in screen.screen.lines[1]
    assert "Gr\\xfc\\xdfe" in " ".join(screen.screen.lines)
    assert screen.screen.lines[0] == "\\u6f22"


def test_a_terminal_that_goes_away_ends_nothing(terminal):
    screen = Terminal(80)
    with LiveTable(screen.stream) as table:
        table.begin("grpo", 2)
        screen.read(lambda lines: "GRPO" in lines[0])
        os.close(screen.master)
        for number in range(3):
            table.update({**RECORD, "iteration": number})
            table.print_above("x")
            time.sleep(0.06)
    with contextlib.suppress(OSError):
        screen.stream.close()


def test_plain_lines_elsewhere():
    stream, clock = io.StringIO(), Clock()
    with LiveTable(stream, clock=clock) as table:
        table.begin("sft", 2)
        clock.now += 30
        table.update({"iteration": 1, "learner/loss": 0.5, "learner/entropy": 0.1})
        table.begin("grpo", 50, done=2)
        for number in range(3, 26):
            clock.now += 60
            table.update({**{key: value for key, value in RECORD.items() if "eval" not in key}, "iteration": number})
            table.alarms([f"Alarm {number} of one kind."] if number in (4, 5, 8) else [])
            table.status("not seen")
        table.update({**RECORD, "iteration": 26})
        table.print_above("Two\nlines")
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[:5] == [
        "cold start: 2 iterations",
        " iteration   elapsed      left      loss   entropy",
        "       1/2      0:30      0:30    0.5000     0.100",
        "GRPO: 50 iterations, going on after iteration 2",
        " iteration   elapsed      left    return       Acc     Score     turns     valid   entropy  constantepisodes/s"
        .replace("constantepisodes/s", "constant episodes/s"),
    ]  # fmt: skip
    assert lines[5].split() == [
        "3/50", "1:30", "47:00", "+0.412", "43.2%", "61.0%", "2.90", "98.5%", "0.083", "31.0%", "12.4",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith("!")] == ["! Alarm 4 of one kind.", "! Alarm 8 of one kind."]
    assert sum(line.startswith(" iteration") for line in lines) == 3
    assert lines[-3].endswith("held-out Acc 45.1% (39.0 to 51.3), Score 62.3% (iteration 26)")
    assert lines[-2:] == ["Two", "lines"]
    assert len({len(line) for line in lines[5:20] if not line.startswith("!")}) == 1


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    screen = terminal(200)
    with LiveTable(screen.stream) as table:
        table.begin("grpo", 2)
        table.update({**RECORD, "iteration": 1})
    screen.read(lambda lines: len(lines) == 4)
    assert "\x1b" not in screen.raw


def test_a_closed_pipe_ends_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    with LiveTable(stream) as table:
        table.begin("grpo", 2)
        table.update(RECORD)
    with contextlib.suppress(OSError):
        stream.close()


PROGRAM = """
import time
from agile_gym.reporting.console import LiveTable, Progress, frame
try:
    with LiveTable() as table:
        table.begin("grpo", 10**6)
        table.alarms(["x" * 76])
        for number in range(10**6):
            table.update({"iteration": number, "acc": 0.5})
            if number == 50:
                table.print_above("ready")
            time.sleep(0.001)
except KeyboardInterrupt:
    print("Interrupted; resume with: agile-gym train --resume")
"""


@pytest.mark.slow
def test_ctrl_c_leaves_a_whole_table_and_a_free_line(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env={**os.environ, "TERM": "xterm"}, preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0),
    )  # fmt: skip
    os.close(slave)
    text, sent = "", False
    while True:
        try:
            part = os.read(master, 1 << 16).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if not part:
            break
        text += part
        if "x" * 76 in text.partition("ready")[2] and not sent:
            os.write(master, b"\x03")
            sent = True
    assert process.wait(20) == 0
    os.close(master)
    screen = Screen(80)
    screen.feed(text)
    assert screen.lines[0] == "ready"
    assert screen.lines[-2:] == ["Interrupted; resume with: agile-gym train --resume", ""]
    assert sum("GRPO" in line for line in screen.lines) == 1
    assert screen.lines[-3] == f"  ! {'x' * 76}"  # as wide as the window: the echo of ^C does not fit behind it
    assert len(screen.lines) == 6


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (245, "4:05"), (3845, "1:04:05"), (-1, "0:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_figures_of_tasks_are_shown_by_name():
    record = {
        "iteration": 1, "return": 0.5, "acc": 0.25, "turns": 2.0,
        "acc/jigsaw": 0.125, "return/jigsaw": -0.25, "turns/jigsaw": 3.5, "acc/other": 1.0, "return/other": 1.0,
        "eval/acc": 0.25, "eval/acc/jigsaw": 0.5, "eval/acc/other": 0.0,
    }  # fmt: skip
    stream = io.StringIO()
    with LiveTable(stream, clock=Clock()) as table:
        table.begin("grpo", 1)
        table.update(record)
    line = stream.getvalue().splitlines()[-1]
    assert line.endswith(
        "2.00   jigsaw: Acc 12.5%, return -0.250, turns 3.50   other: Acc 100.0%, return +1.000   held-out Acc 25.0%; "
        "Acc by task: jigsaw 50.0%, other 0.0% (iteration 1)"
    )
    progress = Progress(since=0.0, stage="grpo", total=1, iteration=1, record=record)
    console = Console(file=io.StringIO(), width=100)
    console.print(frame(progress, 1.0, 100))
    assert (
        "  jigsaw: Acc 12.5%, return -0.250, turns 3.50\n  other: Acc 100.0%, return +1.000\n"
        in console.file.getvalue()
    )
