"""What each training process does, epoch after epoch; Ray Train starts one for a laptop's core or for each GPU.

Every process holds the whole network and shows its own share of each epoch's images; gradients are averaged by
torch's DDP. All evaluate their share of `val` and the first one scores the rows together. The first also writes: the
state after each epoch through Ray Train, so that a killed training goes on from there, and at the end the checkpoint,
with the weights of the best epoch, judged once more in full.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from batchtag.errors import RunFailed
from batchtag.evaluation.scoring import Score, headline, score_tags
from batchtag.models.torchvision.architectures import fill
from batchtag.output.schemas import tags_table
from batchtag.pipeline.tagger import predict
from batchtag.training.augment import augmentation
from batchtag.training.data import Batch, Images, Loader
from batchtag.training.network import make_plan_network, training_resolution
from batchtag.training.optim import average_into, learning_rate, make_optimizer, set_learning_rate
from batchtag.training.plan import News, TrainPlan, metric_of
from batchtag.training.sampling import epoch_order, repeat_factors
from batchtag.training.state import TrainingState, fill_optimizer, optimizer_tensors, read_state, write_state
from batchtag.training.trainable import float_tensors, freeze, training_mode

_NUM_SIZES = 5
"""Different sizes that a detector sees images in."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One training process among all of them."""

    rank: int
    ranks: int
    device: str

    @property
    def is_first(self) -> bool:
        return self.rank == 0


class Worker:
    """One process's part in a training: the network, its optimiser and the images."""

    def __init__(
        self, plan: TrainPlan, place: Place, *, wrap: Callable[[nn.Module], nn.Module], tell: Callable[[News], None]
    ) -> None:
        """`wrap` makes the network one that trains together with the other processes'."""
        self._plan = plan
        self._place = place
        self._tell = tell
        spec = plan.spec
        torch.set_num_threads(plan.threads)
        torch.manual_seed(spec.train.seed)
        self.made = make_plan_network(plan)
        freeze(self.made.network, stages=spec.network.frozen_stages, batch_norm=self._norms_frozen)
        self._network = self.made.network.to(place.device)
        self._together = wrap(self._network)
        self._average = copy.deepcopy(self._network) if spec.train.ema else None
        self._optimizer = make_optimizer(self._network, spec.train)
        self._loader = self._new_loader()
        factors = repeat_factors([image.label_ids for image in plan.train], num_labels=len(plan.labels))
        self._repeats = factors if spec.train.class_balance == "repeat" else factors.clip(1.0, 1.0)
        self._scaler = torch.amp.GradScaler("cuda", enabled=self._amp is torch.float16)
        self._transform_sizes = self._sizes()
        self.state = TrainingState(epochs_done=0, steps_done=0, best_epoch=0, best_value=float("-inf"))

    @property
    def _norms_frozen(self) -> bool:
        asked = self._plan.spec.network.batch_norm
        return asked == "frozen" or (asked == "auto" and self._plan.task == "detect" and bool(self.made.taken))

    @property
    def _judged(self) -> nn.Module:
        """The weights that count: the average, if there is one."""
        return self._network if self._average is None else self._average

    @property
    def _amp(self) -> torch.dtype | None:
        """The type of mixed precision: bfloat16 where the GPU has it, because it needs no scaling of the loss."""
        if not self._plan.spec.train.amp or not self._place.device.startswith("cuda"):
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def _new_loader(self) -> Loader:
        plan, spec = self._plan, self._plan.spec
        change = augmentation(
            spec.augment,
            task=plan.task,
            crop_size=self.made.preprocessing.get("crop_size", 0),
            interpolation=self.made.preprocessing.get("interpolation", "bilinear"),
        )
        images = Images(
            images=plan.train,
            task=plan.task,
            change=change,
            input_resolution=training_resolution(self.made, spec),
            storage_options=plan.train_options,
        )
        is_cuda = self._place.device.startswith("cuda")
        return Loader(images, batch_size=spec.train.batch_size, processes=plan.processes, pin_memory=is_cuda)

    def _sizes(self) -> tuple[int, ...]:
        """What a detector's shorter side is resized to in training: one of these at random; () where it is fixed."""
        own = self.made.preprocessing.get("min_size", 0)
        low, high = self._plan.spec.augment.scale
        steps = _NUM_SIZES if high > low and own else bool(own)
        return tuple(round(own * (low + (high - low) * i / max(1, steps - 1))) for i in range(steps))

    def _be_training(self) -> None:
        self._together.train()  # the wrapper; then what is frozen inside of it
        training_mode(self._network, stages=self._plan.spec.network.frozen_stages, batch_norm=self._norms_frozen)
        if self._transform_sizes:
            self._network.transform.min_size = self._transform_sizes  # type: ignore[union-attr]

    def go_on_from(self, folder: Path) -> None:
        """Take up the state of an epoch's end."""
        self.state = read_state(folder)
        fill(self._network, self.state.network)
        if self._average is not None:
            fill(self._average, self.state.average)
        fill_optimizer(self._optimizer, self.state.optimizer)
        if self.state.scaler:
            self._scaler.load_state_dict(self.state.scaler)

    def epoch(self) -> bool:
        """Train the next epoch and judge it; returns whether training is over."""
        spec, state = self._plan.spec.train, self.state
        began = time.monotonic()
        number = state.epochs_done + 1
        loss, rate = self._train_epoch(number)
        state.epochs_done = number
        entry: dict[str, Any] = {"epoch": number, "learning_rate": rate, **loss}
        is_last = number >= spec.epochs
        if is_last or number % spec.evaluate_every == 0:
            self._share_statistics()
            score = self._judge(self._judged, what=f"epoch {number}")
            if score is not None:
                entry |= headline(score)
                self._keep_if_best(number, entry)
            number_of_best = self._same_everywhere(state.best_epoch)
            state.best_epoch = number_of_best
            is_last = is_last or bool(spec.patience and number - number_of_best >= spec.patience)
        entry["seconds"] = round(time.monotonic() - began, 2)
        state.history.append(entry)
        if self._place.is_first:
            self._tell({"kind": "epoch", "best_epoch": state.best_epoch, "is_last": is_last, **entry})
        state.is_over = is_last
        return is_last

    def _train_epoch(self, number: int) -> tuple[dict[str, float], float]:
        """The mean of each loss over the epoch, and its last learning rate."""
        spec, state, place = self._plan.spec.train, self.state, self._place
        order = epoch_order(self._repeats, seed=spec.seed, epoch=number, rank=place.rank, ranks=place.ranks)
        batches = self._loader.epoch(order, seed=spec.seed + place.rank, epoch=number)
        torch.manual_seed(int(np.random.default_rng([spec.seed, number, place.rank]).integers(2**62)))
        self._be_training()
        sums: dict[str, Tensor] = {}
        rate = 0.0
        for i, batch in enumerate(batches, start=1):
            rate = learning_rate(state.steps_done, spec=spec, steps_per_epoch=len(batches))
            set_learning_rate(self._optimizer, rate)
            for name, value in self._step(batch).items():
                sums[name] = sums[name] + value if name in sums else value
            state.steps_done += 1
            if place.is_first:
                self._tell({"kind": "step", "epoch": number, "step": i, "steps": len(batches)})
        return {name: round(float(total) / len(batches), 6) for name, total in sums.items()}, rate

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        spec = self._plan.spec.train
        with torch.autocast("cuda", dtype=self._amp or torch.float32, enabled=self._amp is not None):
            losses = self._losses(batch)
            loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {float(loss.detach())} in step {self.state.steps_done + 1}; lower "
                f"train.learning_rate, which is {spec.learning_rate:g}, or lengthen train.warmup_epochs"
            )
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if spec.clip_norm:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), spec.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            average_into(self._average, self._network, step=self.state.steps_done, ema=spec.ema)
        parts = {name: value.detach() for name, value in losses.items()} if len(losses) > 1 else {}
        return {"loss": loss.detach(), **parts}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self._place.device
        pixels = [one.to(device, non_blocking=True) for one in batch[0]]
        targets = [{name: value.to(device, non_blocking=True) for name, value in one.items()} for one in batch[1]]
        smoothing = self._plan.spec.train.label_smoothing
        return self.made.losses(self._together, pixels, targets, label_smoothing=smoothing)

    def _judge(self, network: nn.Module, *, what: str) -> Score | None:
        """The score on `val`, in the first process; None in the others."""
        tags = self._tags(network, what)
        if tags is None:
            return None
        return score_tags(tags, self._plan.val, self._plan.labels, is_detection=self._plan.task == "detect")

    def _tags(self, network: nn.Module, what: str) -> pa.Table | None:
        place, plan = self._place, self._plan
        mine = plan.val[place.rank :: place.ranks]
        info, model = self.made.as_model(network, device=place.device)

        def told(num_done: int) -> None:
            if place.is_first:
                self._tell({"kind": "judging", "what": what, "done": num_done, "of": len(mine)})

        outcomes = predict([image.uri for image in mine], [(info, model)], storage_options=plan.val_options, told=told)
        for outcome in outcomes:
            if outcome.failure is not None:
                raise RunFailed(
                    f"{outcome.ref.uri}: was in order when the data was checked, and cannot be evaluated now: "
                    f"{outcome.failure.code}: {outcome.failure.message}"
                )
        tables = self._gather(tags_table(outcomes, run_id=""))
        return pa.concat_tables(tables) if place.is_first else None

    def _gather(self, table: pa.Table) -> list[pa.Table]:
        if self._place.ranks == 1:
            return [table]
        gathered: list[Any] = [None] * self._place.ranks
        torch.distributed.all_gather_object(gathered, table)
        return gathered

    def _share_statistics(self) -> None:
        """The first process's batch norm statistics for all: each saw other images, and its are the ones kept."""
        if self._place.ranks > 1:
            for buffer in self._judged.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def _same_everywhere(self, number: int) -> int:
        """What the first process says."""
        if self._place.ranks == 1:
            return number
        said = [number]
        torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def _keep_if_best(self, number: int, entry: Mapping[str, Any]) -> None:
        value = float(entry.get(metric_of(self._plan), -1.0))
        if value > self.state.best_value or not self.state.best:
            self.state.best_epoch, self.state.best_value = number, value
            self.state.best = float_tensors(self._judged)

    def write_state(self, folder: Path) -> None:
        """The state of this epoch's end."""
        self.state.network = float_tensors(self._network)
        self.state.average = float_tensors(self._average) if self._average is not None else {}
        self.state.optimizer = optimizer_tensors(self._optimizer)
        self.state.scaler = self._scaler.state_dict()
        write_state(folder, self.state)

    def judge_best(self) -> Score | None:
        """The score of the best epoch's weights, which the network holds from now on."""
        if self._place.ranks > 1:
            said = [self.state.best if self._place.is_first else None]
            torch.distributed.broadcast_object_list(said, src=0)
            self.state.best = said[0] or {}
        if self._plan.spec.output.weights == "float16":  # judged as they will be read
            best = self.state.best
            self.state.best = {
                name: one.half().float() if one.is_floating_point() else one for name, one in best.items()
            }
        fill(self._network, self.state.best)
        return self._judge(self._network, what="the best epoch")

    def save(self, score: Score) -> str:
        """Write the checkpoint of the best epoch; gives its digest."""
        plan, state = self._plan, self.state
        return self.made.save(
            plan.spec.output.uri,
            state.best,
            half=plan.spec.output.weights == "float16",
            metrics={name: value for name, value in score.metrics.summary.items() if math.isfinite(value)},
            thresholds=score.metrics.thresholds(),
            extra={
                "data_digest": plan.data_digest,
                "num_train": len(plan.train),
                "num_val": len(plan.val),
                "best_epoch": state.best_epoch,
                "epochs": state.epochs_done,
                "start": plan.spec.network.start,
                "seed": plan.spec.train.seed,
            },
            storage_options=plan.spec.output.storage_options,
        )
