"""Learn a reward from preference pairs: ``diffalign train-reward``, a CLIP in PickScore's format from a team's own labels."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from diffalign.train import checkpoint
from diffalign.train.errors import setting_up
from diffalign.train.reward_config import RewardConfig, check
from diffalign.train.reward_run import Run
from diffalign.train.validate import quiet_libraries


def train_reward(config: RewardConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Run, or go on with, the training that ``config`` describes. A run that has ended is left as it is.

    Returns:
        the summary that is also written to ``output_dir/summary.json``: where the reward is, its accuracy on held-out pairs, by gap where
        the pairs have scores, and the rest of what was measured.

    Raises:
        ConfigError: the configuration, the data or the model to start from. TrainingError: a loss that is not finite.
    """
    check(config)
    say = (lambda text: None) if quiet else tqdm.write
    resume_from = checkpoint.find(config)
    if (summary := checkpoint.finished(config)) is not None:
        say(f"{config.output_dir} holds this very run, finished after {summary['steps']} steps: nothing to do (--fresh starts over)")
        return summary
    with quiet_libraries():
        with setting_up():
            run = Run(config, say, quiet)
        if resume_from is not None:
            run.restore(resume_from)
            say(f"resuming {run.folder} at step {run.step} of {config.max_train_steps} from {resume_from.name}")
        checkpoint.claim(config, run.step)
        with tqdm(total=config.max_train_steps, initial=run.step, desc="train", unit="step", disable=quiet) as bar:
            while run.step < config.max_train_steps:
                metrics = run.one_step()
                run.after_step()
                bar.update()
                bar.set_postfix(loss=f"{metrics['loss']:.3f}", accuracy=f"{metrics['rewards/accuracies']:.2f}")
        return run.finish()


def run(argv: list[str]) -> int:
    """``diffalign train-reward``; the exit code. Raises as ``train_reward``."""
    import tyro

    config = tyro.cli(RewardConfig, args=argv, prog="diffalign train-reward")
    summary = train_reward(config)
    held_out = summary["held_out"]
    told = f"held-out accuracy {held_out['accuracy']:.3f} of {held_out['pairs']} pairs" if held_out else "nothing held out"
    print(f"{summary['result']}  {config.output_dir}/summary.json  ({told}, {summary['seconds']:.0f} s)")
    return 0
