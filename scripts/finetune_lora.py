r"""Fine-tunes a BiPE model with LoRA on packed documents: TRL's `SFTTrainer`, PEFT and `bipe_hf.integrations.peft`.

    printf '{"prompt": "After %s comes", "completion": " %s."}\n' one two two three three four > runs/pairs.jsonl

    python scripts/finetune_lora.py --model runs/demo/tiny_bipe_rope --data runs/pairs.jsonl --intra frozen \
        --output_dir runs/lora --max_steps 10 --learning_rate 1e-3 --bf16 False

`make demo` makes the model, and `pip install '.[trl]'` brings what else is needed. The data are any table that
`bipe-hf` reads, in a form of TRL: `text`, `prompt` and `completion`, or `messages` where the tokenizer has a chat
template. A tenth is held out. `--intra trained` trains the intra-segment table too and saves it with the adapter:
take it for a model fresh from a stock checkpoint. Every setting of `SFTConfig` is a flag, and `--config` reads them
from a YAML file; its default bfloat16 needs a GPU.

This is the cheap way from a stock model to BiPE: `bipe-hf convert` it with the last values of a schedule, which the
adapter then belongs to (`--encoding bipe_rope --token-share 0`), and give the schedule, which starts at those of the
stock model: `--schedule '{"token_share": [1.0, 0.0]}'` (docs/from_stock.md).

Documents are packed with TRL's strategy `bfd`: segments restart with each, and no token attends to another document.
The adapter and the tokenizer go to `--output_dir`. They load like a model, and merge into one that needs no PEFT:

    import bipe_hf  # registers the model that the adapter names
    import peft, transformers
    model = peft.AutoPeftModelForCausalLM.from_pretrained("runs/lora").merge_and_unload()
    for part in (model, transformers.AutoTokenizer.from_pretrained("runs/lora")):
        part.save_pretrained("runs/merged")
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer, TrlParser

from bipe_hf.integrations.peft import Intra, lora_config
from bipe_hf.lab.common.messages import parsed_json
from bipe_hf.lab.data import load_rows
from bipe_hf.lab.training.schedule import EncodingSchedule


FORMS = ({"text"}, {"prompt", "completion"}, {"messages"})


@dataclass
class ScriptArguments:
    """What is not a setting of the trainer."""

    model: str = field(metadata={"help": "folder or Hub name of a BiPE model and its BipeTokenizer"})
    data: str = field(metadata={"help": "table with a column text, columns prompt and completion, or messages"})
    intra: Intra = field(metadata={"help": "whether the intra-segment table is trained too, and saved with LoRA"})
    schedule: str | None = field(
        default=None,
        metadata={"help": "encoding_schedule of bipe-hf pretrain, which must end at the values of the model"},
    )
    rank: int = field(default=16, metadata={"help": "rank of the LoRA matrices, which are scaled by 2"})
    attention: str = field(default="sdpa", metadata={"help": "attention backend, such as flash_attention_2"})


def make_trainer(arguments: ScriptArguments, training: SFTConfig) -> SFTTrainer:
    """Reads model and data.

    Raises:
        ValueError: if the output folder holds something, the data cannot be read or have no form of TRL, the tokenizer
            has no end of text, or the model no intra table that could be trained.
        OSError: if a file is missing.
    """
    output = Path(training.output_dir)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"--output_dir {output}: the folder holds something already; give another one")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    if tokenizer.eos_token is None:
        raise ValueError(f"--model {arguments.model}: its tokenizer has no eos_token, which has to end every document")
    rows = load_rows(arguments.data)
    columns = rows["train"].column_names
    if not any(form <= set(columns) for form in FORMS):
        raise ValueError(
            f"--data {arguments.data}: needs a column text, columns prompt and completion, or messages; it has "
            f"{', '.join(columns)}"
        )
    model = AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation=arguments.attention)
    schedule = parsed_json("--schedule", arguments.schedule)
    callbacks = [] if schedule is None else [EncodingSchedule(model, schedule)]
    for name, (_, last) in (schedule or {}).items():
        there = getattr(model.config, name)
        if there != last:  # an adapter is loaded over the model as it is saved
            raise ValueError(
                f"--schedule: {name} ends at {last}, but {arguments.model} has {there}; convert it again with "
                f"--{name.replace('_', '-')} {last}"
            )
    scaled = {"r": arguments.rank, "lora_alpha": 2 * arguments.rank}
    return SFTTrainer(
        model,
        training,
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
        callbacks=callbacks,
        peft_config=lora_config(model.config, intra=arguments.intra, task_type="CAUSAL_LM", **scaled),
    )


def main() -> int:
    parser = TrlParser((ScriptArguments, SFTConfig), description=__doc__.partition("\n")[0])
    # Packed rows of a batch become one row, whose mask on sdpa grows with the square of its length: one row a forward.
    one_row = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 8}
    parser.set_defaults(packing=True, **one_row)
    try:
        trainer = make_trainer(*parser.parse_args_and_config())
    except (ValueError, OSError) as error:
        print(f"finetune_lora: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    trainer.train()
    trainer.save_model()
    trainer.evaluate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
