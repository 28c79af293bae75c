"""Records `cargo xtask demo` as an animated picture, for `cargo xtask record-demo`.

The demo runs in one terminal of its own, and a shell that asks the services in another. Both screens are taken whenever
they change. In the picture each line of a screen is one text that is visible for as long as the line stood there.
"""

import fcntl
import html
import os
import pty
import re
import selectors
import signal
import struct
import sys
import termios
import time

import pyte

COLUMNS = 80
CELL, LINE = 8.4, 18
MARGIN, TITLE, GAP = 14, 26, 14
# No output for so long: the screen is complete.
SETTLED = 0.03
LIMIT = 90

STYLE = """
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace;fill:#1f2328;white-space:pre}
.w{fill:#f6f8fa;stroke:#d0d7de}.t{fill:#656d76;font-size:12px}.b{font-weight:bold}
.green{fill:#116329}.blue{fill:#0550ae}.brown{fill:#7d4e00}.red{fill:#a40e26}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.w{fill:#0d1117;stroke:#3d444d}.t{fill:#9198a1}
.green{fill:#4ac26b}.blue{fill:#79c0ff}.brown{fill:#e3b341}.red{fill:#ff8182}}
.a{opacity:0;animation:%.2fs step-end infinite}.s{opacity:1}
@media(prefers-reduced-motion:reduce){.a{animation:none}}
"""


class Terminal:
    """A shell in a pseudoterminal, and what its screen shows."""

    def __init__(self, title, rows, folder):
        self.title, self.rows = title, rows
        self.screen = pyte.Screen(COLUMNS, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--noprofile", "--norc"], os.environ | {"PS1": "$ ", "TERM": "xterm"})
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, COLUMNS, 0, 0))

    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    def type(self, text):
        os.write(self.file, text.encode())

    def lines(self):
        """Each line as (column, text, style) for each of its parts. Where two blanks or more stand, a part ends."""
        return [tuple(parts(self.screen.buffer[row])) for row in range(self.rows)]

    def close(self):
        # The demo ends with its terminal.
        os.close(self.file)
        os.kill(self.pid, signal.SIGHUP)
        os.waitpid(self.pid, 0)


def parts(cells):
    line = [cells[column] for column in range(COLUMNS)]
    look = [((cell.fg,) if cell.fg != "default" else ()) + (("b",) if cell.bold else ()) for cell in line]
    start = 0
    for at in range(COLUMNS + 1):
        ends = at == COLUMNS or look[at] != look[start]
        text = "".join(cell.data for cell in line[start:at])
        if ends or text.endswith("  "):
            if text.strip():
                blanks = len(text) - len(text.lstrip())
                yield start + blanks, text.strip(), look[start]
            start = at


class Recording:
    """The screens, each time that one has changed."""

    def __init__(self, terminals):
        self.terminals = terminals
        self.selector = selectors.DefaultSelector()
        for terminal in terminals:
            self.selector.register(terminal.file, selectors.EVENT_READ, terminal)
        self.started = time.monotonic()
        self.frames = []

    def now(self):
        return time.monotonic() - self.started

    def follow(self, until):
        """Takes the screens until a condition holds of them, which may be that a time has come."""
        while not until():
            if self.now() > LIMIT:
                sys.exit("this did not happen:\n" + "\n".join(terminal.text() for terminal in self.terminals))
            changed = False
            while ready := self.selector.select(SETTLED):
                for key, _ in ready:
                    key.data.stream.feed(os.read(key.fd, 65536))
                changed = True
            if changed:
                self.frames.append((self.now(), [terminal.lines() for terminal in self.terminals]))

    def wait(self, seconds):
        until = self.now() + seconds
        self.follow(lambda: self.now() > until)

    def type(self, terminal, text):
        for part in re.findall(r"\S{1,9}\s?", text):
            terminal.type(part)
            self.wait(0.12)
        terminal.type("\n")


def play(demo, shell):
    """What is to be seen. Returns the recording, and the time of its most telling moment."""
    recording = Recording([demo, shell])

    def state(name):
        row = re.search(rf"^  {name} +(\w+)", demo.text(), re.MULTILINE)
        return row and row[1]

    recording.wait(0.5)
    recording.frames.clear()
    recording.started = time.monotonic()
    recording.type(demo, "cargo xtask demo")
    recording.follow(lambda: state("visited") == "active")
    port = re.search(r"curl http://hello\.localhost:(\d+)/", demo.text())[1]
    recording.wait(1.5)
    recording.type(shell, f"curl http://hello.localhost:{port}/")
    recording.follow(lambda: state("hello") == "active")
    recording.wait(2.5)
    recording.type(shell, f"curl http://slow.localhost:{port}/")
    recording.follow(lambda: state("slow") == "waking")
    recording.wait(0.8)
    still = recording.now()
    recording.follow(lambda: state("slow") == "active")
    recording.follow(lambda: [state(name) for name in ("hello", "slow", "mailer")] == ["asleep"] * 3)
    recording.wait(2)
    return recording, still


def spans(frames, end):
    """For each line that a screen had: where, what, and the times from which and until which it stood there."""
    standing, ended = {}, []
    for at, screens in frames + [(end, None)]:
        for place, (line, since) in list(standing.items()):
            if screens is None or screens[place[0]][place[1]] != line:
                ended.append((place, line, since, at))
                del standing[place]
        for number, screen in enumerate(screens or []):
            for row, line in enumerate(screen):
                if line:
                    standing.setdefault((number, row), (line, at))
    return ended


def draw(recording, still):
    terminals, end = recording.terminals, recording.now()
    width = COLUMNS * CELL + 2 * MARGIN
    style, body, tops, top = [STYLE % end], [], [], 1
    for terminal in terminals:
        height = TITLE + terminal.rows * LINE + MARGIN
        body.append(f'<rect class="w" x="1" y="{top}" width="{width:.0f}" height="{height}" rx="8"/>')
        body.append(f'<text class="t" x="{MARGIN}" y="{top + 18}">{html.escape(terminal.title)}</text>')
        tops.append(top + TITLE)
        top += height + GAP
    # The same line may stand in one place several times.
    lines = {}
    for place, line, since, until in spans(recording.frames, end):
        lines.setdefault((place, line), []).append((since, until))
    for number, (((terminal, row), line), times) in enumerate(sorted(lines.items(), key=lambda item: item[0][0])):
        steps = "0%{opacity:0}" if times[0][0] > 0 else ""
        for since, until in times:
            steps += f"{100 * since / end:.2f}%{{opacity:1}}"
            steps += f"{100 * until / end:.2f}%{{opacity:0}}" if until < end else ""
        style.append(f"@keyframes k{number}{{{steps}}}\n")
        shown = " s" if any(since <= still < until for since, until in times) else ""
        y = tops[terminal] + (row + 1) * LINE - 4
        texts = "".join(
            f'<tspan x="{MARGIN + column * CELL:.1f}"{css(look)}>{html.escape(text, quote=False)}</tspan>'
            for column, text, look in line
        )
        body.append(f'<text class="a{shown}" style="animation-name:k{number}" y="{y:.0f}">{texts}</text>')
    size = f'viewBox="0 0 {width + 2:.0f} {top - GAP + 1}" width="{width + 2:.0f}" height="{top - GAP + 1}"'
    title = "<title>cargo xtask demo: services and workers fall asleep, requests and messages wake them</title>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{title}\n<style>{"".join(style)}</style>\n' + "\n".join(body) + "\n</svg>\n"


def css(look):
    return f' class="{" ".join(look)}"' if look else ""


def main():
    workspace, picture = sys.argv[1:]
    demo = Terminal("cargo xtask demo", 29, workspace)
    shell = Terminal("another terminal", 7, "/")
    try:
        recording, still = play(demo, shell)
    finally:
        demo.close()
        shell.close()
    text = draw(recording, still)
    with open(picture, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"    {picture}: {len(text) / 1024:.0f} KiB, {recording.now():.0f} s")


main()
