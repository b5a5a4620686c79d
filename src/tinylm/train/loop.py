"""The training loop: rounds of steps, each step one batch, and everything needed to stop and go on
at any moment."""

import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tinylm.artifact import atomic_directory, hash_of, read_json, write_json
from tinylm.corpus.store import TokenStore, tokenizer_hash
from tinylm.errors import InputError
from tinylm.machine import bf16_is_fast, can_compile, choose_device, keep_freed_memory, peak_flops
from tinylm.terminal import console, progress_bar
from tinylm.train.batches import MicroBatch, Prefetch, make_plan, micro_batches
from tinylm.train.checkpoint import Checkpoints, pack_state, unpack_state
from tinylm.train.config import TrainConfig
from tinylm.train.forgetting import record
from tinylm.train.guards import Guard
from tinylm.train.inputs import check_inputs, check_valid_store, weights_hash
from tinylm.train.loss import Teacher
from tinylm.train.metrics import Metrics, flops_per_token, memory_gb
from tinylm.train.optim import MasterWeights, clip_gradients, learning_rate, make_optimizers
from tinylm.train.parallel import World, shard, whole
from tinylm.train.rounds import generator, select
from tinylm.train.stopping import StopSignal
from tinylm.train.student import Student, set_parameter_dtype
from tinylm.train.teacher_table import TeacherTable, make_or_open
from tinylm.train.trackers import start_tracker

# at most so many of the validation store are scored: a large corpus' share has billions
VALID_TOKENS = 2**20
LARGE_BATCH = 4_000_000  # tokens; above it the paper's learning-rate rule no longer holds
# tokens; checksums of larger stores take more than some seconds: call store.verify() by hand
VERIFIED = 1_000_000_000


def train(
    model: Any,
    store: TokenStore,
    config: TrainConfig,
    out: str | Path,
    teacher: Any = None,
    valid_store: TokenStore | None = None,
    tokenizer: Any = None,
    order_from: Path | None = None,
) -> dict[str, Any]:
    """Train ``model`` (a `transformers` causal model, changed in place) on ``store``; returns what
    result.json holds.

    Writes to ``out``: ``model/`` (a plain Hugging Face directory), ``metrics.jsonl``, ``rounds/``
    and ``checkpoints/``. Called again with the same arguments (the model as it was at first) after
    a stop of any kind it goes on from the last checkpoint, bitwise as if it had never stopped.
    ``teacher`` shares the student's vocabulary; it is used when ``config.distillation`` says so,
    and its stored logits are kept beside the store, where other runs find them. ``order_from`` is
    the ``out`` of a finished run of the same settings: later rounds train on the data it chose, so
    that a control sees the same batches.
    """
    if tokenizer is not None and tokenizer_hash(tokenizer) != store.tokenizer_hash:
        raise InputError(
            f"{store.path} was packed with another tokenizer than the model's: pack the corpus"
            " again"
        )
    if store.num_tokens < VERIFIED:
        store.verify()
    run = Run(model, store, config.validate(), Path(out), teacher, order_from)
    if valid_store is not None:
        check_valid_store(valid_store, store, config)
    run.resume()
    with StopSignal() as stop, progress_bar("training", run.plan.total_steps, "steps") as bar:
        bar.advance(run.step)
        while run.step < run.plan.total_steps:
            round_number, inside = run.plan.locate(run.step)
            if round_number > 0 and inside == 0:
                run.begin_round(round_number)
            run.train_step(round_number, inside)
            bar.advance(1, run.note)
            if (
                valid_store is not None
                and config.evaluate_every
                and run.step % config.evaluate_every == 0
            ):
                run.evaluate(valid_store)
            # never assign 0: a signal may have come in between
            if asked := run.world.any(stop.requested):
                stop.requested = asked
            if stop.requested or (
                config.checkpoint_every and run.step % config.checkpoint_every == 0
            ):
                run.save_checkpoint()
            if config.export_every and run.step % config.export_every == 0:
                run.export(tokenizer)
            if stop.requested:
                run.checkpoints.wait()
                stop.exit(run.out)
    if valid_store is not None and run.evaluated_at != run.step:
        run.evaluate(valid_store)
    return run.finish(tokenizer)


class Run:
    """One run's state: model, optimiser, data plan, losses of the data, guard, and the number of
    steps done."""

    def __init__(
        self,
        model: Any,
        store: TokenStore,
        config: TrainConfig,
        out: Path,
        teacher: Any = None,
        order_from: Path | None = None,
    ) -> None:
        check_inputs(model, store, config, teacher)
        keep_freed_memory()
        self.device = choose_device()
        self.world = World(self.device)
        if config.compile and not can_compile(self.device):
            self.say(
                "[yellow]no C++ compiler with Python's headers here: layers are not compiled,"
                " training is slower[/]"
            )
            config = dataclasses.replace(config, compile=False)
        self.config, self.store, self.out, self.order_from = config, store, out, order_from
        self.dtype = torch.bfloat16 if config.bf16 and bf16_is_fast(self.device) else torch.float32
        self.plan = make_plan(config, store)
        self.final_dtype = next(model.parameters()).dtype
        self.start = {"first weights": weights_hash(model), "teacher": weights_hash(teacher)}
        set_parameter_dtype(model.to(self.device), torch.float32)
        self.student = Student(model.train(), config, self.device, self.dtype)
        if self.world.size > 1:
            shard(self.student, self.student.layers, self.world, self.dtype, config.model_copies)
        self.masters = MasterWeights(model, self.dtype if self.world.size == 1 else torch.float32)
        self.teacher: Student | None = None
        self.table: TeacherTable | None = None
        if config.distillation != "none":
            set_parameter_dtype(teacher, self.dtype)
            teacher = teacher.to(self.device).eval().requires_grad_(False)
            self.teacher = Student(teacher, config, self.device, self.dtype)
        if self.teacher is not None and config.distillation == "stored":
            self.table = self.store_teacher(self.teacher)
            # the caller may hold it: a GPU's memory is for the student
            self.teacher.model.to("cpu")
            self.teacher = None
        self.optimizers = make_optimizers(config, self.masters)
        self.guard = Guard(config)
        self.prefetch = Prefetch(self.read, self.plan.steps)
        self.checkpoints = Checkpoints(out / "checkpoints", config.keep_checkpoints, self.world)
        self.step, self.seconds, self.note = 0, 0.0, ""
        self.chosen: np.ndarray | None = None  # units of the present round; None: all
        # of every sequence, after the round before this one
        self.losses = np.full(self.plan.pool.size, np.nan)
        # of every sequence, when it was last trained on
        self.seen = np.full(self.plan.pool.size, np.nan)
        self.valid: dict[str, float] = {}
        self.evaluated_at = -1  # step
        self.flops_per_token = flops_per_token(model, config.sequence_length)
        if config.tokens_per_batch > LARGE_BATCH:
            self.say(
                f"[yellow]{config.tokens_per_batch:,} tokens a batch: above 4M the rule for lr"
                " fails[/]"
            )

    def train_step(self, round_number: int, inside: int) -> None:
        """One batch forward, backward and into the weights, unless the guard refuses it."""
        start = time.perf_counter()
        rate = learning_rate(self.config, self.plan, self.step)
        torch.manual_seed(int(generator(self.config.seed, "dropout", self.step).integers(2**62)))
        loss = self.forward_backward(*self.prefetch(round_number, inside))
        norm = float(clip_gradients(self.masters.weights, self.config.clip))
        refused = self.guard.refuses(self.step, loss, norm)
        if refused is None:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
            self.masters.publish()
        else:
            self.say(f"[yellow]step {self.step} skipped: {refused}[/]")
        self.masters.clear_gradients()
        self.report(
            start, round=round_number, loss=loss, lr=rate, gradient_norm=norm, skipped=refused or ""
        )
        self.step += 1

    def read(self, round_number: int, inside: int) -> tuple[np.ndarray, list[MicroBatch]]:
        """One step's places in the pool, and this process's part of them on the device."""
        places = self.plan.batch(round_number, inside, self.chosen)
        mine = self.world.mine(self.plan.pool.reshape(-1)[places])
        return places, list(micro_batches(self.store, self.config, mine, self.device))

    def forward_backward(self, places: np.ndarray, pieces: list[MicroBatch]) -> float:
        """Gradients of the mean loss over the batch at ``places`` of the pool; returns the loss in
        nats per token."""
        total, nats = 0.0, []
        for piece in pieces:
            loss, piece_nats = self.student(piece, self.taught(piece))
            (loss / len(pieces)).backward()
            self.masters.collect_gradients()
            total += loss.item() / len(pieces)
            nats.append(piece_nats)
        self.seen[places] = self.world.together(torch.cat(nats))
        return self.world.mean(total)

    def store_teacher(self, teacher: Student) -> TeacherTable:
        """The teacher's best tokens on the whole pool: those beside the store, and the missing ones
        computed now."""

        def hidden(sequences: np.ndarray) -> torch.Tensor:
            one_piece = dataclasses.replace(self.config, micro_batch_size=0)
            (piece,) = micro_batches(self.store, one_piece, sequences, self.device)
            return teacher.hidden(piece.ids, piece.positions)

        length, k = self.config.sequence_length, self.config.stored_top_k
        sample = torch.cat(
            [weight.flatten()[:64].float().cpu() for weight in teacher.model.parameters()]
        )
        about = {
            "store": self.store.fingerprint,
            "teacher": hash_of(sample.tolist()),
            "length": length,
            "top_k": k,
        }
        about["document_mask"] = self.config.document_mask
        beside = self.store.path if os.access(self.store.path, os.W_OK) else self.out
        return make_or_open(
            beside / f"teacher-{hash_of(about)}",
            about,
            np.sort(self.plan.pool.reshape(-1)),
            (self.store.num_sequences(length), length, k),
            hidden,
            teacher.head,
            self.config.micro_batch_size or self.config.batch_size,
            self.world,
        )

    @torch.no_grad()
    def taught(self, piece: MicroBatch) -> Teacher | None:
        """What the teacher says about a micro-batch, if there is one."""
        weight = self.config.distillation_weight
        if self.table is not None:
            log_probs, ids = self.table.lookup(piece.sequences, self.device)
            return Teacher(weight, top_log_probs=log_probs, top_ids=ids)
        if self.teacher is not None:
            hidden = self.teacher.hidden(piece.ids, piece.positions)
            return Teacher(
                weight, self.config.distillation_temperature, hidden=hidden, head=self.teacher.head
            )
        return None

    @torch.no_grad()
    def frozen_losses(self, store: TokenStore, sequences: np.ndarray, label: str) -> np.ndarray:
        """Nats per token of every sequence with the model as it is now: one pass, no gradients."""
        self.student.eval()
        size, found = self.config.micro_batch_size * self.world.size or self.config.batch_size, []
        # one shape, so one compiled program
        padded = np.resize(sequences, math.ceil(len(sequences) / size) * size)
        with progress_bar(label, len(padded) // size, "batches") as bar:
            for start in range(0, len(padded), size):
                mine = self.world.mine(padded[start : start + size])
                (piece,) = micro_batches(store, self.config, mine, self.device)
                found.append(self.world.together(self.student(piece)[1]))
                bar.advance()
        self.student.train()
        return np.concatenate(found)[: len(sequences)].astype(np.float64)

    def record_forgetting(self, round_number: int, losses: np.ndarray) -> dict[str, float]:
        """Numbers and picture of what a round forgot, given the losses at its end."""
        if not self.world.leads:
            return {}
        measured = record(
            self.out / "rounds", self.plan, round_number, self.chosen, self.seen, losses
        )
        return {"forgetting": measured["forgetting"], "forgetting_stderr": measured["stderr"]}

    def say(self, message: str) -> None:
        if self.world.leads:
            console.print(message)

    def pool_losses(self, rounds_done: int) -> np.ndarray:
        return self.frozen_losses(
            self.store, self.plan.pool.reshape(-1), f"losses after round {rounds_done}"
        )

    def begin_round(self, round_number: int) -> None:
        """Choose this round's data by the losses at the end of the one before."""
        previous = self.losses
        needed = (
            self.config.strategy not in ("uniform", "all") and self.config.loss_source == "pass"
        )
        needed = needed and self.order_from is None
        losses = (
            self.pool_losses(round_number) if needed or self.config.forgetting else self.seen.copy()
        )
        if self.config.forgetting:
            self.record_forgetting(round_number - 1, losses)
        before = None if np.isnan(previous).any() else self.plan.unit_losses(previous)
        if self.order_from is None:
            self.chosen = select(self.config, self.plan.unit_losses(losses), before, round_number)
        else:
            self.chosen = np.load(self.order_from / "rounds" / f"round-{round_number}.npz")[
                "chosen"
            ]
        self.losses = losses
        self.guard.recent.clear()  # chosen data are harder: their losses are not a spike
        if self.world.leads:
            (self.out / "rounds").mkdir(parents=True, exist_ok=True)
            file = self.out / "rounds" / f"round-{round_number}.npz"
            np.savez(
                file, sequences=self.plan.pool, losses=losses, seen=self.seen, chosen=self.chosen
            )

    def evaluate(self, store: TokenStore) -> None:
        """Loss on a validation store: nats per token, and bits per byte (comparable across
        tokenizers)."""
        every = store.num_sequences(self.config.sequence_length)
        most = max(1, VALID_TOKENS // self.config.sequence_length)
        # spread over the store
        sequences = np.unique(np.linspace(0, every - 1, min(every, most)).astype(np.int64))
        loss = float(self.frozen_losses(store, sequences, "validation").mean())
        bits_per_byte = loss / math.log(2) * store.num_tokens / store.text_bytes
        self.evaluated_at = self.step
        self.valid = {"valid_loss": loss, "valid_bits_per_byte": bits_per_byte}
        if self.world.leads:
            self.metrics.log(self.step, **self.valid)

    def report(self, start: float, **values: Any) -> None:
        """One line of metrics, and the note beside the progress bar."""
        seconds = time.perf_counter() - start
        self.seconds += seconds
        speed = self.config.tokens_per_batch / seconds
        mfu = speed * self.flops_per_token / peak_flops(self.device, self.dtype) / self.world.size
        self.note = f"loss {values['loss']:.3f}  {speed / 1000:.1f}k tokens/s"
        if self.world.leads and self.step % self.config.log_every == 0:
            memory = memory_gb(self.device)
            self.metrics.log(
                self.step, **values, tokens_per_second=speed, mfu=mfu, memory_gb=memory
            )

    # Keeping and going on

    def identity(self) -> dict[str, str]:
        """What must be equal for a checkpoint to be this run's.

        When things are written does not count, nor how a step is fitted to a machine: saved on many
        devices, a run goes on on one with smaller micro-batches, with the same losses up to
        rounding.
        """
        when = (
            "checkpoint_every",
            "keep_checkpoints",
            "export_every",
            "log_every",
            "evaluate_every",
        )
        # fit a machine
        how = (
            "micro_batch_size",
            "loss_chunk",
            "gradient_checkpointing",
            "compile",
            "model_copies",
        )
        free = (*when, *how, "trackers", "max_skips")
        settings = {key: value for key, value in self.config.to_dict().items() if key not in free}
        shapes = [
            (name, list(weight.shape))
            for name, weight in zip(self.masters.names, self.masters.weights)
        ]
        same = {
            "settings": hash_of(settings),
            "data": self.store.fingerprint,
            "model shape": hash_of(shapes),
        }
        return same | self.start

    def save_checkpoint(self) -> None:
        """Begin to write one; it is whole some steps later, see :class:`Checkpoints`."""
        tensors = pack_state(self.masters, self.optimizers)
        tensors["rounds.losses"] = torch.from_numpy(self.losses)
        tensors["rounds.seen"] = torch.from_numpy(self.seen)
        if self.chosen is not None:
            tensors["rounds.chosen"] = torch.from_numpy(self.chosen)
        state = {"identity": self.identity(), "guard": self.guard.state(), "seconds": self.seconds}
        self.checkpoints.save(self.step, tensors, state)

    def resume(self) -> None:
        """Go on from the newest whole checkpoint, if there is one."""
        found = self.checkpoints.latest(self.identity())
        if found is not None:
            path, state = found
            tensors = unpack_state(path, self.masters, self.optimizers)
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.seen = (
                tensors["rounds.losses"].numpy(),
                tensors["rounds.seen"].numpy(),
            )
            self.chosen = tensors["rounds.chosen"].numpy() if "rounds.chosen" in tensors else None
            self.guard.restore(state["guard"])
            self.say(f"going on from step {self.step} of {self.plan.total_steps}")
        self.world.wait()
        if self.world.leads:
            trackers = [
                start_tracker(name, self.out, self.config.to_dict())
                for name in self.config.trackers
            ]
            self.metrics = Metrics(self.out, self.step, trackers)
            known = self.metrics.validated.get(self.step, {})
            self.valid = {key: value for key, value in known.items() if key != "step"}
        if self.world.any(bool(self.valid)):
            self.evaluated_at = self.step

    def finish(self, tokenizer: Any) -> dict[str, Any]:
        """Write the trained model as a Hugging Face directory and ``result.json``."""
        self.checkpoints.wait()
        forgetting = {}
        if self.config.forgetting:
            forgetting = self.record_forgetting(
                self.config.rounds - 1, self.pool_losses(self.config.rounds)
            )
        self.write_model(self.out / "model", tokenizer)
        if self.world.size == 1:
            self.masters.restore_model(self.final_dtype)
        self.student.release()
        del self.prefetch  # it holds this run, which would keep the optimiser's memory
        result = {
            "steps": self.step,
            "tokens_trained": self.step * self.config.tokens_per_batch,
            "seconds": self.seconds,
            "tokens_per_second": self.step * self.config.tokens_per_batch / max(self.seconds, 1e-9),
            "skipped_steps": self.guard.skipped,
            **self.valid,
            **forgetting,
        }
        if self.world.leads:
            write_json(self.out / "result.json", result)
            self.metrics.close()
        self.world.wait()
        return result

    def export(self, tokenizer: Any) -> None:
        """``out/models/step-N``. A disk that is full costs this directory, not the run."""
        folder = self.out / "models" / f"step-{self.step:08d}"
        try:
            self.write_model(folder, tokenizer)
        except (InputError, OSError) as error:
            self.say(
                f"[yellow]{folder} could not be written ({error}); training goes on without it[/]"
            )

    def write_model(self, folder: Path, tokenizer: Any) -> None:
        """A Hugging Face directory of the model as it is now: config, weights in the format they
        came in, tokenizer."""
        named = zip(self.masters.names, self.masters.weights)
        weights = {
            name: whole(weight.detach()).to("cpu", self.final_dtype) for name, weight in named
        }
        model = self.student.model
        trained = {
            name
            for name, weight in model.named_parameters(remove_duplicate=False)
            if weight.requires_grad
        }
        frozen = self.masters.frozen
        # frozen parameters and buffers that are saved
        for name, value in model.state_dict().items():
            if name in frozen:
                weights[name] = whole(frozen[name]).to("cpu", self.final_dtype)
            elif name not in trained:
                weights[name] = whole(value).cpu()
        if self.world.leads:
            with atomic_directory(folder, replace=True) as scratch:
                model.save_pretrained(scratch, state_dict=weights)
                # says what the model computes in, not what is written
                config = read_json(scratch / "config.json")
                write_json(
                    scratch / "config.json",
                    config | {"dtype": str(self.final_dtype).removeprefix("torch.")},
                )
                if tokenizer is not None:
                    tokenizer.save_pretrained(scratch)
