"""Steps that must not happen: a loss or gradient that is not a number, or a loss far above the
recent ones."""

import math
from collections import deque

from tinylm.errors import WorkError
from tinylm.train.config import TrainConfig

WINDOW, LEAST = 128, 32  # losses remembered, and how many are needed before a spike can be told


# nats above what is expected that are a spike in any case, where no losses tell how they scatter
EARLY_SPIKE = 2.0


class Guard:
    """Decides whether a step is taken, and counts those that are not."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.recent: deque[float] = deque(maxlen=WINDOW)
        # nats per token that a batch is expected to have, from held-out text; nan: unknown
        self.expected = math.nan
        self.skipped = 0
        self.in_a_row = 0
        self.reason = ""  # of the last skipped step

    @property
    def exhausted(self) -> bool:
        """Whether more steps were skipped than ``max_skips``."""
        return self.skipped > self.config.max_skips

    def refuses(self, loss: float, gradient_norm: float) -> str | None:
        """Why this step is skipped, or None."""
        reason = self._reason(loss, gradient_norm)
        if reason is None:
            self.recent.append(loss)
            self.in_a_row = 0
            return None
        self.skipped += 1
        self.in_a_row += 1
        self.reason = reason
        return reason

    def expect(self, loss: float) -> None:
        """Tell the loss on held-out text; what came before it says nothing any more."""
        self.expected, self.in_a_row = loss, 0
        self.recent.clear()

    def stop(self, step: int) -> WorkError:
        """What to raise when the guard is ``exhausted`` and there is no good state to go back
        to."""
        return WorkError(
            f"training stopped at step {step}: {self.skipped} steps were skipped, the last for"
            f" {self.reason}; lower train.base_lr, or look at the data near this step"
        )

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"a loss of {loss}"
        if not math.isfinite(gradient_norm):
            return f"a gradient norm of {gradient_norm}"
        if not self.config.spike_sigmas:
            return None
        if len(self.recent) >= LEAST:
            mean = sum(self.recent) / len(self.recent)
            sigma = math.sqrt(sum((value - mean) ** 2 for value in self.recent) / len(self.recent))
            if loss > mean + self.config.spike_sigmas * sigma:
                return (
                    f"a loss of {loss:.2f}, over {self.config.spike_sigmas:g} sigma above"
                    f" {mean:.2f}"
                )
        elif loss > self.expected + EARLY_SPIKE:  # never true for nan
            return f"a loss of {loss:.2f}, where held-out text has {self.expected:.2f}"
        return None

    def state(self) -> dict:
        return {
            "recent": list(self.recent),
            "expected": None if math.isnan(self.expected) else self.expected,
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "reason": self.reason,
        }

    def restore(self, state: dict) -> None:
        self.recent = deque(state["recent"], maxlen=WINDOW)
        self.expected = math.nan if state["expected"] is None else state["expected"]
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self.reason = state["reason"]
