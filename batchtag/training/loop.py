"""The work of one training process, epoch after epoch. Ray Train starts one on a machine without GPUs, or one per GPU.

Every process holds the whole network and trains on its share of each epoch's images; torch's DDP averages the
gradients. Every process predicts its share of the validation images, and the first computes the score of all. The first
process also writes: the state after each epoch, through Ray Train, from which a killed training resumes, and at the end
the checkpoint with the weights of the best epoch, which are evaluated once more as they are stored.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchtag.evaluation.scoring import Score, headline
from batchtag.models.torchvision.architectures import fill_network
from batchtag.training.augment import detector_training_sizes
from batchtag.training.data import Batch, make_loader
from batchtag.training.events import EpochDone, EvaluationProgress, StepDone, TrainingEvent
from batchtag.training.freezing import freeze_layers, set_training_mode
from batchtag.training.network import build_network
from batchtag.training.optim import learning_rate, make_optimizer, set_learning_rate, update_average
from batchtag.training.plan import TrainPlan, best_epoch_metric
from batchtag.training.process_group import ProcessGroup
from batchtag.training.sampling import epoch_order, repeat_factors
from batchtag.training.state import (
    TrainingState,
    copy_state_to_cpu,
    fill_optimizer,
    optimizer_tensors,
    read_state,
    write_state,
)
from batchtag.training.trainable import Trainable
from batchtag.training.validation import evaluate_network


class TrainingProcess:
    """One process of a training: the network, its optimiser and the images. `state` is that of the last epoch's end."""

    def __init__(
        self,
        plan: TrainPlan,
        group: ProcessGroup,
        *,
        wrap: Callable[[nn.Module], nn.Module],
        on_event: Callable[[TrainingEvent], None],
    ) -> None:
        """`wrap` makes a network that averages its gradients with those of the other processes.

        `on_event` is called in the first process only.
        """
        self._plan = plan
        self._group = group
        self._on_event = on_event if group.is_first else lambda event: None
        spec = plan.spec
        torch.set_num_threads(plan.num_torch_threads)
        torch.manual_seed(spec.train.seed)
        self.trainable = build_network(plan)
        self._freezing: Any = {
            "num_stages": spec.network.frozen_stages,
            "batch_norms": _are_batch_norms_frozen(plan, self.trainable),
        }
        freeze_layers(self.trainable.network, **self._freezing)
        self._network = self.trainable.network.to(group.device)
        self._wrapped_network = wrap(self._network)
        self._average = copy.deepcopy(self._network) if spec.train.ema else None
        self._optimizer = make_optimizer(self._network, spec.train)
        self._loader = make_loader(plan, self.trainable, pin_memory=group.is_on_gpu)
        factors = repeat_factors([image.label_ids for image in plan.train], num_labels=len(plan.labels))
        self._repeats = factors if spec.train.class_balance == "repeat" else np.ones_like(factors)
        self._amp_dtype = _amp_dtype(plan, group)
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp_dtype is torch.float16)
        min_size = self.trainable.preprocessing.get("min_size", 0)
        self._training_sizes = detector_training_sizes(spec.augment, min_size=min_size)
        self.state = TrainingState(epochs_done=0, steps_done=0, best_epoch=0, best_value=float("-inf"))

    @property
    def _evaluated_network(self) -> nn.Module:
        """The network whose weights are evaluated and kept: the average, if the job asks for one."""
        return self._network if self._average is None else self._average

    def resume_from(self, folder: Path) -> None:
        """Load the state that `write_state` wrote at the end of an epoch."""
        self.state = read_state(folder)
        fill_network(self._network, self.state.network)
        if self._average is not None:
            fill_network(self._average, self.state.average)
        fill_optimizer(self._optimizer, self.state.optimizer)
        if self.state.scaler:
            self._scaler.load_state_dict(self.state.scaler)

    def write_state(self, folder: Path) -> None:
        """Write the state of this epoch's end."""
        self.state.network = copy_state_to_cpu(self._network)
        self.state.average = copy_state_to_cpu(self._average) if self._average is not None else {}
        self.state.optimizer = optimizer_tensors(self._optimizer)
        self.state.scaler = self._scaler.state_dict()
        write_state(folder, self.state)

    def run_epoch(self) -> None:
        """Train the next epoch, evaluate it if it is due, and update `state`."""
        spec, state = self._plan.spec.train, self.state
        started_at = time.monotonic()
        epoch = state.epochs_done + 1
        losses, rate = self._train_epoch(epoch)
        state.epochs_done = epoch
        entry: dict[str, Any] = {"epoch": epoch, "learning_rate": rate, **losses}
        is_last = epoch >= spec.epochs
        if is_last or epoch % spec.evaluate_every == 0:
            # Every process saw other images and has other batch norm statistics. The first one's are kept, so all
            # evaluate with those.
            self._group.broadcast_buffers(self._evaluated_network)
            score = self._evaluate(self._evaluated_network, subject=f"epoch {epoch}")
            if score is not None:
                entry |= headline(score)
                self._keep_if_best(epoch, entry)
            state.best_epoch = self._group.broadcast_from_first(state.best_epoch)
            is_last = is_last or bool(spec.patience and epoch - state.best_epoch >= spec.patience)
        entry["seconds"] = round(time.monotonic() - started_at, 2)
        state.history.append(entry)
        self._on_event(EpochDone(entry=entry, best_epoch=state.best_epoch, is_last=is_last))
        state.is_over = is_last

    def _train_epoch(self, epoch: int) -> tuple[dict[str, float], float]:
        """Train on this process's share of the images. Return the mean of each loss, and the last learning rate."""
        spec, state, group = self._plan.spec.train, self.state, self._group
        order = epoch_order(
            self._repeats, seed=spec.seed, epoch=epoch, rank=group.rank, num_processes=group.num_processes
        )
        batches = self._loader.start_epoch(order, seed=spec.seed + group.rank, epoch=epoch)
        torch.manual_seed(int(np.random.default_rng([spec.seed, epoch, group.rank]).integers(2**62)))
        self._start_training_mode()
        sums: dict[str, Tensor] = {}
        rate = 0.0
        for step, batch in enumerate(batches, start=1):
            rate = learning_rate(state.steps_done, spec=spec, steps_per_epoch=len(batches))
            set_learning_rate(self._optimizer, rate)
            for name, value in self._train_step(batch).items():
                sums[name] = sums[name] + value if name in sums else value
            state.steps_done += 1
            self._on_event(StepDone(epoch=epoch, step=step, num_steps=len(batches)))
        return {name: round(float(total) / len(batches), 6) for name, total in sums.items()}, rate

    def _start_training_mode(self) -> None:
        self._wrapped_network.train()  # the wrapper first; the next line then corrects the frozen parts inside it
        set_training_mode(self._network, **self._freezing)
        if self._training_sizes:
            self._network.transform.min_size = self._training_sizes  # type: ignore[union-attr]

    def _train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the weights by one batch. Return the total loss and, if there are several, its parts, detached."""
        spec = self._plan.spec.train
        with torch.autocast("cuda", dtype=self._amp_dtype or torch.float32, enabled=self._amp_dtype is not None):
            losses = self._compute_losses(batch)
            loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {float(loss.detach())} in step {self.state.steps_done + 1}; it must be a finite number. "
                f"Lower train.learning_rate, which is {spec.learning_rate:g}, or raise train.warmup_epochs"
            )
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if spec.clip_norm:
            self._scaler.unscale_(self._optimizer)  # the limit is for gradients of the loss, not of the scaled loss
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), spec.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            update_average(self._average, self._network, step=self.state.steps_done, ema=spec.ema)
        parts = {name: value.detach() for name, value in losses.items()} if len(losses) > 1 else {}
        return {"loss": loss.detach(), **parts}

    def _compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self._group.device
        images, image_targets = batch
        pixels = [image.to(device, non_blocking=True) for image in images]
        targets = [{n: value.to(device, non_blocking=True) for n, value in target.items()} for target in image_targets]
        smoothing = self._plan.spec.train.label_smoothing
        return self.trainable.compute_losses(self._wrapped_network, pixels, targets, label_smoothing=smoothing)

    def _evaluate(self, network: nn.Module, *, subject: str) -> Score | None:
        """Return the score on the validation images in the first process; None in the others."""
        return evaluate_network(
            network,
            trainable=self.trainable,
            plan=self._plan,
            group=self._group,
            subject=subject,
            on_progress=self._on_event,
        )

    def _keep_if_best(self, epoch: int, entry: Mapping[str, Any]) -> None:
        value = float(entry.get(best_epoch_metric(self._plan), -1.0))
        if value > self.state.best_value or not self.state.best:
            self.state.best_epoch, self.state.best_value = epoch, value
            self.state.best = copy_state_to_cpu(self._evaluated_network)

    def evaluate_best(self) -> Score | None:
        """Load the weights of the best epoch, as they will be stored, into the network, and evaluate them.

        Returns the score in the first process; None in the others.
        """
        self._on_event(EvaluationProgress(subject="the best epoch", num_done=0, num_images=len(self._plan.val)))
        # 1. Only the first process has kept the best weights.
        best = self._group.broadcast_from_first(self.state.best if self._group.is_first else None)
        # 2. Round them as the checkpoint will, so that the score is that of the stored weights.
        if self._plan.spec.output.weights == "float16":
            best = {n: tensor.half().float() if tensor.is_floating_point() else tensor for n, tensor in best.items()}
        # 3. Evaluate them. `save_checkpoint` writes the same tensors.
        self.state.best = best
        fill_network(self._network, best)
        return self._evaluate(self._network, subject="the best epoch")

    def save_checkpoint(self, score: Score) -> str:
        """Write the checkpoint of the best epoch after `evaluate_best`, and return its digest."""
        output = self._plan.spec.output
        return self.trainable.save(
            output.uri,
            self.state.best,
            half=output.weights == "float16",
            metrics={name: value for name, value in score.metrics.summary.items() if math.isfinite(value)},
            thresholds=score.metrics.thresholds(),
            extra=_checkpoint_facts(self._plan, self.state),
            storage_options=output.storage_options,
        )


def _are_batch_norms_frozen(plan: TrainPlan, trainable: Trainable) -> bool:
    setting = plan.spec.network.batch_norm
    starts_from_weights = bool(trainable.loaded_tensors)
    return setting == "frozen" or (setting == "auto" and plan.task == "detect" and starts_from_weights)


def _amp_dtype(plan: TrainPlan, group: ProcessGroup) -> torch.dtype | None:
    """Return the dtype of mixed precision: bfloat16 if the GPU has it, because it needs no scaling of the loss."""
    if not plan.spec.train.amp or not group.is_on_gpu:
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _checkpoint_facts(plan: TrainPlan, state: TrainingState) -> dict[str, Any]:
    return {
        "data_digest": plan.data_digest,
        "num_train": len(plan.train),
        "num_val": len(plan.val),
        "best_epoch": state.best_epoch,
        "epochs": state.epochs_done,
        "start": plan.spec.network.start,
        "seed": plan.spec.train.seed,
    }
