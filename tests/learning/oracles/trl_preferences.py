"""Makes trl_preferences.json: what TRL's own trainers say of two models and some responses.

Run it from the repository's root where TRL 1.16.0 is installed beside selflearn:

    python -m tests.learning.oracles.trl_preferences

TRL is no dependency, not even of the tests: its losses live in its trainers, which take seconds to import and to build.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tests.conftest import make_tiny_model
from tests.learning.oracles.cases import BETA, CHOSEN, LABELS, PROMPTS, REJECTED, move

FILE = Path(__file__).with_suffix(".json")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "tiny"
        make_tiny_model(directory)
        base = LlamaForCausalLM.from_pretrained(directory)
        policy = LlamaForCausalLM.from_pretrained(directory)
        move(policy)
        found = {
            "trl": trl.__version__,
            "dpo": [dpo(policy, base, directory, i) for i in range(len(PROMPTS))],
            "kto": {name: kto(policy, base, directory, labels) for name, labels in LABELS.items()},
            "kto the other way round": {name: kto(base, policy, directory, labels) for name, labels in LABELS.items()},
        }
    FILE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "beta": BETA,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 4,
        "max_length": None,
        "gradient_checkpointing": False,
    }


def dpo(policy: Any, base: Any, folder: Path, index: int) -> float:
    """The loss of one pair."""
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(
        model=policy,
        ref_model=base,
        args=DPOConfig(**arguments(folder)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    pair = {"prompt_ids": PROMPTS[index], "chosen_ids": CHOSEN[index], "rejected_ids": REJECTED[index]}
    return loss_of(trainer, [pair])


def kto(policy: Any, base: Any, folder: Path, labels: list[bool]) -> float:
    """The mean loss of the chosen responses under these labels; baselines are the responses rotated by one."""
    rows = Dataset.from_list([{"prompt": "a", "completion": "b", "label": label} for label in (True, False)])
    trainer = KTOTrainer(
        model=policy,
        ref_model=base,
        args=KTOConfig(**arguments(folder)),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    given = [
        {
            "prompt_ids": PROMPTS[i],
            "completion_ids": CHOSEN[i],
            "KL_completion_ids": CHOSEN[i - 1],
            "label": label,
        }
        for i, label in enumerate(labels)
    ]
    return loss_of(trainer, given)


@torch.no_grad()
def loss_of(trainer: Any, rows: list[dict[str, Any]]) -> float:
    trainer.model.eval()
    return float(trainer.compute_loss(trainer.model, trainer.data_collator(rows)))


if __name__ == "__main__":
    main()
