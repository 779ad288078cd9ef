"""A terminal for tests: a pty, and a screen that obeys what is written to it."""

import fcntl
import os
import re
import select
import struct
import termios
import time

_PART = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(\x1b)")


class Screen:
    """Rows of characters, without an end at the top; it wraps at its width.

    Attributes:
        rows: The rows, each a list of characters.
        wrapped: How often a line did not fit.
    """

    def __init__(self, width):
        self.width, self.rows, self.row, self.column, self.wrapped = width, [[]], 0, 0, 0
        self._rest = ""

    def feed(self, text):
        text = self._rest + text
        cut = re.search(r"(\x1b(\[\??[\d;]*)?)?\Z", text).start()  # a command that is not there to its end
        text, self._rest = text[:cut], text[cut:]
        for number, command, move, plain, escape in _PART.findall(text):
            assert not escape, repr(text)
            if command == "A":
                assert self.row >= int(number or 1), "above the first row"
                self.row -= int(number or 1)
            elif command == "J":
                self.rows = self.rows[: self.row + 1]
                self.rows[-1] = self.rows[-1][: self.column]
            elif command == "K":
                assert number == "2", number
                self.rows[self.row] = []
            elif command:
                assert command == "m" or number == "?25", command  # colours, and whether the cursor is seen
            elif move == "\r":
                self.column = 0
            elif move == "\n":
                self._down()
            for character in plain:
                if self.column == self.width:
                    self.wrapped += 1
                    self._down()
                    self.column = 0
                line = self.rows[self.row]
                line += " " * (self.column - len(line))
                line[self.column : self.column + 1] = [character]
                self.column += 1

    def _down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def resize(self, width):
        """Change the width; as most terminals do, wrap what became too long, the cursor staying at its character."""
        rows, at = [], self.row
        for number, line in enumerate(self.rows):
            if number == at:
                self.row = len(rows) + max(0, self.column - 1) // width
            rows += [line[start : start + width] for start in range(0, max(1, len(line)), width)]
        self.rows, self.width = rows, width

    @property
    def lines(self):
        """Visible lines, down to the cursor or to the last text."""
        lines = ["".join(line).rstrip() for line in self.rows]
        last = max(self.row, *(number for number, line in enumerate(lines) if line), 0)
        return lines[: last + 1]


class Terminal:
    """A pty of a given size; `stream` is what a program writes to, `screen` what a user sees."""

    def __init__(self, width, height=50, encoding="utf-8"):
        self.master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w", encoding=encoding)
        self.screen, self.raw = Screen(width), ""
        self.size(width, height)

    def size(self, width, height=50):
        fcntl.ioctl(self.stream, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def read(self, until, seconds=20):
        """Take in what was written until a condition holds."""
        end = time.monotonic() + seconds
        while True:
            while select.select([self.master], [], [], 0.01)[0]:
                text = os.read(self.master, 1 << 16).decode(errors="replace")
                self.raw += text
                self.screen.feed(text)
            if until(self.screen.lines):
                return self.screen.lines
            assert time.monotonic() < end, self.screen.lines

    def close(self):
        self.stream.close()
        os.close(self.master)
