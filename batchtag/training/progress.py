"""What a person sees of a training: a live line for the step, and a line that stays for each epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from batchtag.console import format_duration
from batchtag.runs.progress import Progress, RunProgress
from batchtag.training.plan import News

_FIGURES = ("AP", "AP50", "AP75", "AR100", "accuracy", "top5", "macro_f1")


class TrainingStory:
    """Hears the workers' news in order. `history`, `end` and `failure` are what it came to know."""

    def __init__(
        self,
        progress: Progress,
        *,
        epochs: int,
        on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_epoch` gets the figures of each epoch as it ends."""
        self._progress = progress
        self._epochs = epochs
        self._on_epoch = on_epoch
        self._clock = clock
        self._phase = "starting to train"
        self._began = (0.0, 0.0)
        self.history: list[dict[str, Any]] = []
        self.end: News | None = None
        self.failure = ""

    def hear(self, news: News) -> None:
        """Take in one piece of news."""
        match news["kind"]:
            case "begin":
                self._begin(news)
            case "step":
                self._phase = self._step(news)
            case "judging":
                self._phase = f"evaluating {news['what']}: {news['done']:,} of {news['of']:,} images"
            case "epoch":
                self._epoch(news)
            case "end":
                self.end = news
            case "failed":
                self.failure = news["message"]

    def show(self) -> None:
        """Where it stands now."""
        self._progress.show(RunProgress(phase=self._phase))

    def _begin(self, news: News) -> None:
        self.history = list(news["history"])
        self._began = (self._clock(), float(news["epochs_done"]))
        if news["epochs_done"]:
            self._progress.say(f"going on after epoch {news['epochs_done']} of {self._epochs}")
        elif news["num_taken"]:
            parts = sorted({name.rpartition(".")[0] for name in news["left"]})
            new = f"; new are {', '.join(parts[:6])}{', ...' if len(parts) > 6 else ''}" if parts else ""
            self._progress.say(f"{news['num_taken']:,} tensors come from the weights it starts from{new}")

    def _step(self, news: News) -> str:
        done = news["epoch"] - 1 + news["step"] / news["steps"]
        began, before = self._began
        left_s = (self._clock() - began) / max(done - before, 1e-9) * (self._epochs - done)
        left = f", {format_duration(left_s)} left" if done - before > 0.2 else ""
        return f"epoch {news['epoch']} of {self._epochs}: step {news['step']:,} of {news['steps']:,}{left}"

    def _epoch(self, news: News) -> None:
        entry = {name: value for name, value in news.items() if name not in ("kind", "is_last", "best_epoch")}
        self.history = [one for one in self.history if one["epoch"] < entry["epoch"]] + [entry]
        self._on_epoch(entry)
        figures = [f"{name} {entry[name]:.3f}" for name in _FIGURES if name in entry]
        best = " (best so far)" if figures and news["best_epoch"] == entry["epoch"] else ""
        pieces = [f"epoch {entry['epoch']:>3} of {self._epochs}", f"loss {entry['loss']:.4f}", *figures]
        self._progress.say("  ".join([*pieces, f"{entry['seconds']:.0f} s"]) + best)
        if news["is_last"] and entry["epoch"] < self._epochs:
            self._progress.say(f"stopping early: epoch {news['best_epoch']} stays the best")
