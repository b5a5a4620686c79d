"""Stop and go on: what a checkpoint of a run holds, and which checkpoint is this run's."""

from typing import TYPE_CHECKING

import torch

from tinylm.artifact import hash_of
from tinylm.train.checkpoint import BEST, pack_state, unpack_state
from tinylm.train.metrics import Metrics
from tinylm.train.trackers import start_tracker

if TYPE_CHECKING:
    from tinylm.train.run import Run

# Settings that may change on the way: when things are written, and how a step is fitted to a
# machine. Saved on many devices, a run goes on on one with smaller micro-batches, with the same
# losses up to rounding.
FREE_SETTINGS = (
    *("checkpoint_every", "keep_checkpoints", "export_every", "log_every", "evaluate_every"),
    *("micro_batch_size", "loss_chunk", "gradient_checkpointing", "compile", "model_copies"),
    *("trackers", "max_skips"),
)


def identity(run: "Run") -> dict[str, str]:
    """What must be equal for a checkpoint to be this run's."""
    settings = {
        key: value for key, value in run.config.to_dict().items() if key not in FREE_SETTINGS
    }
    shapes = [
        (name, list(weight.shape))
        for name, weight in zip(run.masters.names, run.masters.weights, strict=True)
    ]
    same = {
        "settings": hash_of(settings),
        "data": run.store.fingerprint,
        "model shape": hash_of(shapes),
    }
    return same | run.start


def save_checkpoint(run: "Run") -> None:
    """Begin to write one; it is whole some steps later, see
    :class:`~tinylm.train.checkpoint.Checkpoints`."""
    tensors = pack_state(run.masters, run.optimizers)
    tensors["rounds.losses"] = torch.from_numpy(run.losses)
    tensors["rounds.seen"] = torch.from_numpy(run.seen)
    for name, weight in zip(run.masters.names, run.watch.best_weights):
        tensors[f"{BEST}.{name}"] = weight
    if run.chosen is not None:
        tensors["rounds.chosen"] = torch.from_numpy(run.chosen)
    state = {
        "identity": identity(run),
        "guard": run.guard.state(),
        "watch": run.watch.state(),
        "seconds": run.seconds,
    }
    run.checkpoints.save(run.step, tensors, state)


def resume(run: "Run") -> None:
    """Go on from the newest whole checkpoint, if there is one, and open the metrics there."""
    found = run.checkpoints.latest(identity(run))
    if found is not None:
        path, state = found
        tensors = unpack_state(path, run.masters, run.optimizers)
        run.step, run.seconds = state["step"], state["seconds"]
        run.losses, run.seen = tensors["rounds.losses"].numpy(), tensors["rounds.seen"].numpy()
        run.chosen = tensors["rounds.chosen"].numpy() if "rounds.chosen" in tensors else None
        run.guard.restore(state["guard"])
        best = [tensors[key] for name in run.masters.names if (key := f"{BEST}.{name}") in tensors]
        run.watch.restore(state["watch"], best)
        run.log(f"going on from step {run.step} of {run.plan.total_steps}")
    run.world.wait()
    if run.world.is_main:
        settings = run.config.to_dict()
        trackers = [start_tracker(name, run.out, settings) for name in run.config.trackers]
        run.metrics = Metrics(run.out, run.step, trackers)
        known = run.metrics.validated.get(run.step, {})
        run.valid = {key: value for key, value in known.items() if key != "step"}
    if run.world.any(bool(run.valid)):
        run.evaluated_at = run.step
