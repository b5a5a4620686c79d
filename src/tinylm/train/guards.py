"""Steps that must not happen: a loss or gradient that is not a number, or a loss far above the
recent ones."""

import math
from collections import deque

from tinylm.errors import WorkError
from tinylm.train.config import TrainConfig

WINDOW, LEAST = 128, 32  # losses remembered, and how many are needed before a spike can be told


class Guard:
    """Decides whether a step is taken, counts those that are not, and stops the run when there are
    too many."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0

    def refuses(self, step: int, loss: float, gradient_norm: float) -> str | None:
        """Why this step is skipped, or None. Raises WorkError when more than ``max_skips`` were."""
        reason = self._reason(loss, gradient_norm)
        if reason is None:
            self.recent.append(loss)
            return None
        self.skipped += 1
        if self.skipped > self.config.max_skips:
            raise WorkError(
                f"training stopped at step {step}: {self.skipped} steps were skipped, the last for"
                f" {reason}; lower train.base_lr, or look at the data near this step"
            )
        return reason

    def _reason(self, loss: float, gradient_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"a loss of {loss}"
        if not math.isfinite(gradient_norm):
            return f"a gradient norm of {gradient_norm}"
        if self.config.spike_sigmas and len(self.recent) >= LEAST:
            mean = sum(self.recent) / len(self.recent)
            sigma = math.sqrt(sum((value - mean) ** 2 for value in self.recent) / len(self.recent))
            if loss > mean + self.config.spike_sigmas * sigma:
                return (
                    f"a loss of {loss:.2f}, over {self.config.spike_sigmas:g} sigma above"
                    f" {mean:.2f}"
                )
        return None

    def state(self) -> dict:
        return {"recent": list(self.recent), "skipped": self.skipped}

    def restore(self, state: dict) -> None:
        self.recent = deque(state["recent"], maxlen=WINDOW)
        self.skipped = state["skipped"]
