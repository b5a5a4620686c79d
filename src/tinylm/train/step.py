"""One optimiser step."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tinylm.machine import peak_flops, peak_memory
from tinylm.train.batches import MicroBatch, micro_batches
from tinylm.train.draws import generator
from tinylm.train.master_weights import clip_gradients
from tinylm.train.schedule import learning_rate

if TYPE_CHECKING:
    from tinylm.train.run import Run


def train_step(run: "Run", round_number: int, inside: int) -> None:
    """One batch forward, backward and into the weights, unless the guard refuses it."""
    start = time.perf_counter()
    rate = run.watch.rate_scale(run.step) * learning_rate(run.config, run.plan, run.step)
    seed_dropout(run, run.step)
    loss = forward_backward(run, *run.prefetch(round_number, inside))
    norm = float(clip_gradients(run.masters.weights, run.config.clip))
    refused = run.guard.refuses(loss, norm)
    if refused is None:
        update(run, run.optimizers, rate)
    else:
        run.log(f"[yellow]step {run.step} skipped: {refused}[/]")
    run.masters.clear_gradients()
    values = {"loss": loss, "lr": rate, "gradient_norm": norm, "skipped": refused or ""}
    _log_step(run, start, {"round": round_number, **values})
    run.step += 1


def seed_dropout(run: "Run", step: int) -> None:
    torch.manual_seed(int(generator(run.config.seed, "dropout", step).integers(2**62)))


def update(run: "Run", optimizers: list[Any], rate: float) -> None:
    """Move the weights by their gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    run.masters.update_model()


def read_batch(run: "Run", round_number: int, inside: int) -> tuple[np.ndarray, list[MicroBatch]]:
    """One step's places in the pool, and this process's part of them on the device."""
    places = run.plan.batch(round_number, inside, run.chosen)
    sequences = run.world.local_sequences(run.plan.pool.reshape(-1)[places])
    return places, list(micro_batches(run.store, run.config, sequences, run.device))


def forward_backward(run: "Run", places: np.ndarray, pieces: list[MicroBatch]) -> float:
    """Gradients of the mean loss over the batch at ``places`` of the pool; returns the loss in nats
    per token."""
    total, nats = 0.0, []
    for piece in pieces:
        with torch.no_grad():
            teacher_targets = run.teacher_targets(piece)
        loss, piece_nats = run.student(piece, teacher_targets)
        (loss / len(pieces)).backward()
        run.masters.collect_gradients()
        total += loss.item() / len(pieces)
        nats.append(piece_nats)
    run.seen[places] = run.world.all_gather(torch.cat(nats))
    return run.world.mean(total)


def _log_step(run: "Run", start: float, values: dict[str, Any]) -> None:
    """One line of metrics, and the note beside the progress bar."""
    seconds = time.perf_counter() - start
    run.seconds += seconds
    speed = run.config.tokens_per_batch / seconds
    run.note = f"loss {values['loss']:.3f}  {speed / 1000:.1f}k tokens/s"
    if run.world.is_main and run.step % run.config.log_every == 0:
        mfu = speed * run.flops_per_token / peak_flops(run.device, run.dtype) / run.world.size
        memory = peak_memory(run.device) / 1e9
        run.metrics.log(run.step, **values, tokens_per_second=speed, mfu=mfu, memory_gb=memory)
