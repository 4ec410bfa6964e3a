"""What the commands without a run print: presets, methods, objectives, and what is installed."""

from __future__ import annotations

PACKAGES = ("diffalign", "torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "datasets", "safetensors", "tyro")
EXTRAS = {"open_clip_torch": "rewards", "xformers": "xformers", "bitsandbytes": "quant", "tensorboard": "track"}


def presets() -> None:
    """The named runs of diffalign train --preset: what papers trained with, and what we recommend."""
    from diffalign.train.presets import PRESETS

    for preset in PRESETS.values():
        print(preset)


def methods(json: bool = False) -> None:
    """What can be trained: each method as a point (noising, conditioning, reference, objective) with its formula, paper and settings.

    Args:
        json: as JSON.
    """
    from json import dumps

    from diffalign.methods import TABLE, facts

    if json:
        print(dumps([facts(method) for method in TABLE.values()], indent=1))
        return
    for method in TABLE.values():
        point = method.point
        options = ", ".join(f"{name} = {value:g}" for name, value in point.objective_options.items()) or "its own defaults"
        print(f"{method.name}: {method.formula}\n  {method.title}; {method.paper}")
        print(f"  takes {point.source}; noising {point.noising}; conditioning {point.conditioning}; reference {point.reference};")
        print(f"  objective {point.objective} with {options}. Published: {method.settings}")


def objectives(json: bool = False) -> None:
    """Every objective: what it computes, where it is from, what it takes, needs and may be told, and what of it is not verified.

    Args:
        json: as JSON, with other names.
    """
    from json import dumps

    from diffalign.objectives import TABLE
    from diffalign.objectives.facts import facts, line

    print(dumps([facts(row) for row in TABLE.values()], indent=1) if json else "\n".join(map(line, TABLE.values())))


def doctor() -> None:
    """Versions, devices and extras of this installation."""
    import platform
    from importlib import metadata

    import torch

    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        print(f"{name} {metadata.version(name)}")
    for name, extra in EXTRAS.items():
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} not installed (pip install 'diffalign[{extra}]')")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(i)
            print(f"GPU {i}: {facts.name}, {facts.total_memory / 2**30:.0f} GiB, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    else:
        print(f"no GPU; CPU with {torch.get_num_threads()} threads")
