"""What a person sees while a study runs: one line a stage, and a bar with an estimate for those that take long."""

from __future__ import annotations

import time
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tasks.core.events import Event
from tasks.core.secrets import redact
from tasks.core.visible import visible

_BAD = {"failed": "[red]failed[/] ", "damaged": "[yellow]damaged[/]", "doubt": "[yellow]warning[/]"}
PLAIN_SECONDS = 10.0
"""Without a terminal (a log file, CI) a running stage says how far it is once in this time."""

LIVE_SECONDS = 0.1
"""On a terminal its bar moves so often."""


class StudyDisplay:
    """Listens to events; use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.bars: dict[str, TaskID] = {}
        self.begun: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self.progress = Progress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> StudyDisplay:
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event. Names and notes come from files and people: the terminal obeys nothing in them."""
        if event.kind == "progress" and not self._due(event):
            return
        event = replace(event, name=visible(event.name), note=visible(redact(event.note)))
        if event.kind == "progress":
            self._step(event)
            return
        if event.kind == "start":
            self.begun[event.name] = self.told[event.name] = time.monotonic()
            return
        if event.name in self.bars and event.kind not in ("damaged", "doubt"):
            self.progress.remove_task(self.bars.pop(event.name))
        name = escape(event.name)
        if event.kind == "done":
            self.console.print(f"  [green]done[/]    {name}  [dim]{event.seconds:.1f} s[/]", highlight=False)
        elif event.kind == "hit":
            self.console.print(f"  [cyan]cached[/]  {name}  [dim]was {event.seconds:.1f} s[/]", highlight=False)
        elif event.kind == "again":
            self.console.print(f"  [yellow]again[/]   {name}  [dim]{escape(event.note)}[/]", highlight=False)
        elif event.kind == "away":
            self.console.print(
                f"  [yellow]waiting[/] {name} does not answer ({escape(event.note)}); nothing is lost", highlight=False
            )
        elif event.kind == "back":
            self.console.print(f"  [green]back[/]    {name}  [dim]after {event.seconds:.0f} s[/]", highlight=False)
        elif event.kind in _BAD:
            self.console.print(f"  {_BAD[event.kind]} ", end="")
            self.console.print(f"{event.name}: {event.note}", markup=False, highlight=False)

    def _due(self, event: Event) -> bool:
        """Whether progress is to be shown again: some is told hundreds of times a second."""
        now, name = time.monotonic(), visible(event.name)
        first = self.live and (name not in self.bars or event.done == event.total)
        if not first and now - self.told.setdefault(name, now) < (LIVE_SECONDS if self.live else PLAIN_SECONDS):
            return False
        self.told[name] = now
        return True

    def _step(self, event: Event) -> None:
        if self.live:
            if event.name not in self.bars:
                self.bars[event.name] = self.progress.add_task(event.name, total=event.total, note="")
            self.progress.update(
                self.bars[event.name], completed=event.done, total=event.total, note=event.note, refresh=False
            )
            return
        now = time.monotonic()
        elapsed = now - self.begun.get(event.name, now)
        left = f", about {elapsed * (event.total - event.done) / event.done:.0f} s left" if event.done else ""
        self.console.print(
            f"  ...     {event.name}  {event.done}/{event.total} {event.note}{left}",
            markup=False,
            highlight=False,
        )
