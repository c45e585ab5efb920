"""The peers' side: TRL's SFTTrainer and a plain PEFT loop. Run by the interpreter that has them, without selflearn.

Started with a JSON object (:class:`Task` of update_contenders), it loads the model and then trains one pass for each
line on its standard input, answering with how long that took and its highest memory so far.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerCallback

Pass = Callable[[], float]


def adapter_config(task: dict[str, Any]) -> Any:
    """LoRA on all linear layers but the head, as everyone here has it."""
    from peft import LoraConfig

    return LoraConfig(r=task["rank"], lora_alpha=2 * task["rank"], target_modules="all-linear", task_type="CAUSAL_LM")


def base_of(task: dict[str, Any]) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(task["model"], dtype=getattr(torch, task["dtype"]))
    model.to(task["device"])
    return model


def plain_loop(task: dict[str, Any], rows: list[dict[str, Any]]) -> Pass:
    """What one writes by hand: padded batches, the model's own loss, AdamW."""
    from peft import get_peft_model

    model = get_peft_model(base_of(task), adapter_config(task))
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=task["learning_rate"])

    def run() -> float:
        started = time.perf_counter()
        order = torch.randperm(len(rows)).tolist()
        for at in range(0, len(rows), task["batch_size"]):
            batch = padded([rows[index] for index in order[at : at + task["batch_size"]]], task["device"])
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started

    return run


def padded(rows: list[dict[str, Any]], device: str) -> dict[str, Tensor]:
    longest = max(len(row["ids"]) for row in rows)
    ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        length, prompt = len(row["ids"]), row["prompt_length"]
        ids[number, :length] = torch.tensor(row["ids"])
        mask[number, :length] = 1
        labels[number, prompt:length] = ids[number, prompt:length]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}


class _Clock(TrainerCallback):
    """From the first step's beginning to the last one's end: nothing that a trainer does once counts."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.ended = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = self.started or time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended = time.perf_counter()


def trl_trainer(task: dict[str, Any], rows: list[dict[str, Any]]) -> Pass:
    """SFTTrainer on the responses alone; ``options`` are more of SFTConfig's."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=task["work"],
        per_device_train_batch_size=task["batch_size"],
        num_train_epochs=1,
        learning_rate=task["learning_rate"],
        max_grad_norm=1.0,
        optim="adamw_torch",
        gradient_checkpointing=False,
        use_cpu=task["device"] == "cpu",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **task["options"],
    )
    dataset = Dataset.from_list(
        [
            {
                "input_ids": row["ids"],
                "completion_mask": [int(at >= row["prompt_length"]) for at in range(len(row["ids"]))],
            }
            for row in rows
        ]
    )
    clock = _Clock()
    trainer = SFTTrainer(
        base_of(task), args=config, train_dataset=dataset, peft_config=adapter_config(task), callbacks=[clock]
    )

    def run() -> float:
        clock.started = None
        trainer.train()
        assert clock.started is not None
        return clock.ended - clock.started

    return run


KINDS = {"plain": plain_loop, "trl": trl_trainer}


def answers(run: Pass) -> Iterator[dict[str, float]]:
    """One pass for each line that comes; memory in bytes is the highest of this process so far, loading included."""
    for _ in sys.stdin:
        seconds = run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        device = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        yield {"seconds": seconds, "peak": peak, "device_peak": device}


def serve(make: Callable[[dict[str, Any], list[dict[str, Any]]], Pass]) -> None:
    """Keeps standard output for answers alone: whatever libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.argv[1])
    torch.manual_seed(0)
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    rows = [json.loads(line) for line in Path(task["data"]).read_text(encoding="utf-8").splitlines()]
    run = make(task, rows)
    for answer in answers(run):
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    serve(lambda task, rows: KINDS[task["kind"]](task, rows))
