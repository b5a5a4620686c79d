"""The training loop: rounds of steps, each step one batch, and everything needed to stop and go on at any moment."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinylm.artifact import atomic_directory, hash_of, write_json
from tinylm.corpus.store import TokenStore, tokenizer_hash
from tinylm.errors import InputError
from tinylm.terminal import console, progress_bar
from tinylm.train import checkpoint
from tinylm.train.batches import MicroBatch, make_plan, micro_batches
from tinylm.train.config import TrainConfig
from tinylm.train.device import bf16_is_fast, choose_device, keep_freed_memory, peak_flops
from tinylm.train.guards import Guard
from tinylm.train.loss import Teacher, chunked_loss
from tinylm.train.metrics import Metrics, memory_gb
from tinylm.train.optim import MasterWeights, clip_gradients, learning_rate, make_optimizer
from tinylm.train.rounds import generator, select
from tinylm.train.stopping import StopSignal
from tinylm.train.student import Student, set_parameter_dtype

LARGE_BATCH = 4_000_000  # tokens; above it the paper's learning-rate rule no longer holds


def train(
    model: Any,
    store: TokenStore,
    config: TrainConfig,
    out: str | Path,
    teacher: Any = None,
    valid_store: TokenStore | None = None,
    tokenizer: Any = None,
) -> dict[str, Any]:
    """Train ``model`` (a `transformers` causal model, changed in place) on ``store``; returns what result.json holds.

    Writes to ``out``: ``model/`` (a plain Hugging Face directory), ``metrics.jsonl``, ``rounds/`` and ``checkpoints/``.
    Called again with the same arguments after a stop of any kind it goes on from the last checkpoint, bitwise as if
    it had never stopped. ``teacher`` shares the student's vocabulary; it is used when ``config.distillation`` says so.
    """
    if tokenizer is not None and tokenizer_hash(tokenizer) != store.tokenizer_hash:
        raise InputError(f"{store.path} was packed with another tokenizer than the model's: pack the corpus again")
    run = Run(model, store, config.validate(), Path(out), teacher)
    run.resume()
    with StopSignal() as stop, progress_bar("training", run.plan.total_steps, "steps") as bar:
        bar.advance(run.step)
        while run.step < run.plan.total_steps:
            round_number, inside = run.plan.locate(run.step)
            if round_number > 0 and inside == 0:
                run.begin_round(round_number)
            run.train_step(round_number, inside)
            bar.advance(1, run.note)
            if valid_store is not None and config.evaluate_every and run.step % config.evaluate_every == 0:
                run.evaluate(valid_store)
            if stop.requested or (config.checkpoint_every and run.step % config.checkpoint_every == 0):
                run.save_checkpoint()
            stop.exit_if_requested(run.out)
    if valid_store is not None:
        run.evaluate(valid_store)
    return run.finish(tokenizer)


class Run:
    """One run's state: model, optimiser, data plan, losses of the data, guard, and the number of steps done."""

    def __init__(self, model: Any, store: TokenStore, config: TrainConfig, out: Path, teacher: Any) -> None:
        check_inputs(model, store, config, teacher)
        keep_freed_memory()
        self.config, self.store, self.out = config, store, out
        self.device = choose_device()
        self.dtype = torch.bfloat16 if config.bf16 and bf16_is_fast(self.device) else torch.float32
        self.plan = make_plan(config, store)
        self.final_dtype = next(model.parameters()).dtype
        set_parameter_dtype(model.to(self.device), torch.float32)
        self.masters = MasterWeights(model, self.dtype)
        self.student = Student(model.train(), config)
        self.teacher: Student | None = None
        if config.distillation == "live":
            set_parameter_dtype(teacher.to(self.device).eval().requires_grad_(False), self.dtype)
            self.teacher = Student(teacher, config)
        self.optimizer = make_optimizer(config, self.masters)
        self.guard = Guard(config)
        self.step, self.seconds, self.note = 0, 0.0, ""
        self.chosen: np.ndarray | None = None  # units of the present round; None: all
        self.losses = np.full(self.plan.pool.size, np.nan)  # of every sequence, after the round before this one
        self.seen = np.full(self.plan.pool.size, np.nan)  # of every sequence, when it was last trained on
        self.valid: dict[str, float] = {}
        weights = sum(weight.numel() for weight in self.masters.weights)
        self.flops_per_token = 6 * weights + 6 * _attention_flops(model, config.sequence_length)
        if config.tokens_per_batch > LARGE_BATCH:
            console.print(f"[yellow]{config.tokens_per_batch:,} tokens a batch: above 4M the rule for lr fails[/]")

    def train_step(self, round_number: int, inside: int) -> None:
        """One batch forward, backward and into the weights, unless the guard refuses it."""
        start = time.perf_counter()
        rate = learning_rate(self.config, self.plan, self.step)
        torch.manual_seed(int(generator(self.config.seed, "dropout", self.step).integers(2**62)))
        places = self.plan.batch(round_number, inside, self.chosen)
        loss = self.forward_backward(places)
        norm = float(clip_gradients(self.masters.weights, self.config.clip))
        refused = self.guard.refuses(self.step, loss, norm)
        if refused is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.masters.publish()
        else:
            console.print(f"[yellow]step {self.step} skipped: {refused}[/]")
        self.masters.clear_gradients()
        self.report(start, round=round_number, loss=loss, lr=rate, gradient_norm=norm, skipped=refused or "")
        self.step += 1

    def forward_backward(self, places: np.ndarray) -> float:
        """Gradients of the mean loss over the batch at ``places`` of the pool; returns the loss in nats per token."""
        total, nats = 0.0, []
        pieces = list(micro_batches(self.store, self.config, self.plan.pool.reshape(-1)[places], self.device))
        for piece in pieces:
            loss, piece_nats = self.loss(piece)
            (loss / len(pieces)).backward()
            self.masters.collect_gradients()
            total += loss.item() / len(pieces)
            nats.append(piece_nats)
        self.seen[places] = torch.cat(nats).cpu().numpy()
        return total

    def loss(self, piece: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(training loss, plain next-token nats per token of each sequence) of one micro-batch."""
        hidden = self.student.hidden(piece.ids, piece.positions)
        loss, nats = chunked_loss(
            hidden,
            self.student.head,
            piece.targets.flatten(),
            teacher=self.taught(piece) if hidden.requires_grad else None,
            z_loss=self.config.z_loss,
            chunk=self.config.loss_chunk,
            compiled=self.config.compile,
        )
        return loss, nats.view_as(piece.targets).mean(dim=1)

    @torch.no_grad()
    def taught(self, piece: MicroBatch) -> Teacher | None:
        """What the teacher says about a micro-batch, if there is one."""
        if self.teacher is None:
            return None
        return Teacher(
            weight=self.config.distillation_weight,
            temperature=self.config.distillation_temperature,
            hidden=self.teacher.hidden(piece.ids, piece.positions),
            head=self.teacher.head,
        )

    @torch.no_grad()
    def frozen_losses(self, store: TokenStore, sequences: np.ndarray, label: str) -> np.ndarray:
        """Nats per token of every sequence with the model as it is now: one pass, no gradients."""
        self.student.model.eval()
        size, found = self.config.micro_batch_size or self.config.batch_size, []
        padded = np.resize(sequences, math.ceil(len(sequences) / size) * size)  # one shape, so one compiled program
        with progress_bar(label, len(padded) // size, "batches") as bar:
            for start in range(0, len(padded), size):
                for piece in micro_batches(store, self.config, padded[start : start + size], self.device):
                    found.append(self.loss(piece)[1].cpu().numpy())
                bar.advance()
        self.student.model.train()
        return np.concatenate(found)[: len(sequences)].astype(np.float64)

    def begin_round(self, round_number: int) -> None:
        """Choose this round's data by the losses at the end of the one before."""
        previous = self.losses
        if self.config.strategy in ("uniform", "all") and not self.config.forgetting:
            losses = self.seen  # nothing depends on them: no pass
        elif self.config.loss_source == "training":
            losses = self.seen.copy()
        else:
            losses = self.frozen_losses(self.store, self.plan.pool.reshape(-1), f"losses after round {round_number}")
        before = None if np.isnan(previous).any() else self.plan.unit_losses(previous)
        self.chosen = select(self.config, self.plan.unit_losses(losses), before, round_number)
        self.losses = losses
        self.guard.recent.clear()  # chosen data are harder: their losses are not a spike
        (self.out / "rounds").mkdir(parents=True, exist_ok=True)
        np.savez(
            self.out / "rounds" / f"round-{round_number}.npz",
            sequences=self.plan.pool,
            losses=losses,
            seen=self.seen,
            chosen=self.chosen,
        )

    def evaluate(self, store: TokenStore) -> None:
        """Loss on a validation store: nats per token, and bits per byte (comparable across tokenizers)."""
        sequences = np.arange(store.num_sequences(self.config.sequence_length))
        loss = float(self.frozen_losses(store, sequences, "validation").mean())
        bits_per_byte = loss / math.log(2) * store.num_tokens / store.text_bytes
        self.valid = {"valid_loss": loss, "valid_bits_per_byte": bits_per_byte}
        self.metrics.log(self.step, **self.valid)

    def report(self, start: float, **values: Any) -> None:
        """One line of metrics, and the note beside the progress bar."""
        seconds = time.perf_counter() - start
        self.seconds += seconds
        speed = self.config.tokens_per_batch / seconds
        mfu = speed * self.flops_per_token / peak_flops(self.device, self.dtype)
        self.note = f"loss {values['loss']:.3f}  {speed / 1000:.1f}k tokens/s"
        if self.step % self.config.log_every == 0:
            memory = memory_gb(self.device)
            self.metrics.log(self.step, **values, tokens_per_second=speed, mfu=mfu, memory_gb=memory)

    # Keeping and going on

    def identity(self) -> dict[str, str]:
        """What must be equal for a checkpoint to be this run's. How often things are written does not count."""
        free = ("checkpoint_every", "keep_checkpoints", "log_every", "evaluate_every", "trackers", "max_skips")
        settings = {key: value for key, value in self.config.to_dict().items() if key not in free}
        shapes = [(name, list(weight.shape)) for name, weight in zip(self.masters.names, self.masters.weights)]
        return {"settings": hash_of(settings), "data": self.store.fingerprint, "model shape": hash_of(shapes)}

    def save_checkpoint(self) -> None:
        tensors = checkpoint.pack_state(self.masters, self.optimizer)
        tensors["rounds.losses"] = torch.from_numpy(self.losses)
        tensors["rounds.seen"] = torch.from_numpy(self.seen)
        if self.chosen is not None:
            tensors["rounds.chosen"] = torch.from_numpy(self.chosen)
        state = {"identity": self.identity(), "guard": self.guard.state(), "seconds": self.seconds}
        checkpoint.save(self.out / "checkpoints", self.step, tensors, state, self.config.keep_checkpoints)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = checkpoint.load_latest(self.out / "checkpoints", self.identity())
        if found is not None:
            tensors, state = found
            checkpoint.unpack_state(tensors, self.masters, self.optimizer)
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.seen = tensors["rounds.losses"].numpy(), tensors["rounds.seen"].numpy()
            self.chosen = tensors["rounds.chosen"].numpy() if "rounds.chosen" in tensors else None
            self.guard.restore(state["guard"])
            console.print(f"going on from step {self.step} of {self.plan.total_steps}")
        self.metrics = Metrics(self.out, self.step)

    def finish(self, tokenizer: Any) -> dict[str, Any]:
        """Write the trained model as a Hugging Face directory and ``result.json``."""
        self.masters.restore_model(self.final_dtype)
        self.student.restore_attention()
        model = self.student.model.eval()
        with atomic_directory(self.out / "model", replace=True) as folder:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        result = {
            "steps": self.step,
            "tokens_trained": self.step * self.config.tokens_per_batch,
            "seconds": self.seconds,
            "tokens_per_second": self.step * self.config.tokens_per_batch / max(self.seconds, 1e-9),
            "skipped_steps": self.guard.skipped,
            **self.valid,
        }
        write_json(self.out / "result.json", result)
        self.metrics.close()
        return result


def check_inputs(model: Any, store: TokenStore, config: TrainConfig, teacher: Any) -> None:
    """InputError when model, data and teacher do not fit together."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if store.vocab_size > vocabulary:
        raise InputError(
            f"{store.path} holds ids of a vocabulary of {store.vocab_size}, the model has {vocabulary}: "
            "pack the corpus with the model's own tokenizer"
        )
    if config.distillation != "none" and teacher is None:
        raise InputError(f"train.distillation = {config.distillation!r} needs a teacher")
    if config.distillation == "live":
        teachers = teacher.get_output_embeddings().weight.shape[0]
        if teachers != vocabulary:
            raise InputError(
                f"the teacher's vocabulary is {teachers}, the student's {vocabulary}: they must be the same"
            )


def _attention_flops(model: Any, length: int) -> int:
    """Multiply-adds a token of scores and mixing, averaged over a causal window."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers * heads * head_dim * length
