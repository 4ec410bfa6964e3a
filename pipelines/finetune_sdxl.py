"""Fine-tune SDXL on your own preference pairs. Copy this file, change the values, run it: python finetune_sdxl.py

The folder of pairs: ``chosen/0001.png``, ``rejected/0001.png``, and the prompt in ``chosen/0001.txt`` (docs/data.md has the other layouts).
To try it without a download and a GPU, pass the embedded model's world: python finetune_sdxl.py builtin:shapes
"""

import sys

from diffalign.train import TrainConfig, train


def main(model: str = "stabilityai/stable-diffusion-xl-base-1.0", data: str = "my_pairs") -> None:
    small = model.startswith("builtin:")
    if small:
        from diffalign.worlds import shapes

        data = str(shapes.PAIRS)
    config = TrainConfig(
        model=model,
        vae=None if small else "madebyollin/sdxl-vae-fp16-fix",
        data=data,
        output_dir="runs/sdxl-dpo",
        method="diffusion-dpo",
        beta=2000.0 if small else 5000.0,
        train="lora",
        lora_rank=16,
        learning_rate=3e-4 if small else 1e-4,
        lr_warmup_steps=20,
        max_train_steps=60 if small else 500,
        train_batch_size=16 if small else 1,
        gradient_accumulation_steps=1 if small else 16,
        mixed_precision="no" if small else "bf16",
        gradient_checkpointing=not small,
    )
    summary = train(config)
    print("held-out preference accuracy:", summary.get("held_out/accuracies"))
    print(f"load it with: pipeline.load_lora_weights({summary['result']!r})")


if __name__ == "__main__":
    main(*sys.argv[1:])
