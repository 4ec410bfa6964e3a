"""Published evaluation protocols, with their quirks named: values for ``EvalConfig``, over which the command line wins."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """``source``: where the settings were read; ``unverified``: what was not found there. ``quirks``: what one would not do by oneself."""

    name: str
    about: str
    source: str
    values: Mapping[str, Any]
    quirks: tuple[str, ...] = ()
    unverified: str = ""

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.about}", f"  from {self.source}", *(f"  quirk: {quirk}" for quirk in self.quirks)]
        return "\n".join([*lines, f"  not verified: {self.unverified}"] if self.unverified else lines)


_PICKSCORE = ("pickscore", "hpsv2.1", "clip-h14", "aesthetic")
_DPO_SOURCE = "SalesforceAIResearch/DiffusionDPO, quick_samples.ipynb"
_DPO_UNVERIFIED = "rewards and prompts of the automatic comparison (the paper judges PartiPrompts and HPSv2 prompts by people)"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in [
        Protocol(
            "paper/diffusion-dpo-sd15", "base and aligned SD 1.5 from the same seeds, guidance 7.5, 50 steps", _DPO_SOURCE,
            dict(baseline="stable-diffusion-v1-5/stable-diffusion-v1-5", prompts="parti", rewards=_PICKSCORE, guidance_scale=7.5,
                 num_inference_steps=50, train_rewards=("pickscore",)),
            unverified=_DPO_UNVERIFIED,
        ),
        Protocol(
            "paper/diffusion-dpo-sdxl", "base and aligned SDXL from the same seeds, guidance 5, 50 steps", _DPO_SOURCE,
            dict(baseline="stabilityai/stable-diffusion-xl-base-1.0", prompts="parti", rewards=_PICKSCORE, guidance_scale=5.0,
                 num_inference_steps=50, train_rewards=("pickscore",)),
            unverified=_DPO_UNVERIFIED,
        ),
        Protocol(
            "paper/diffusion-sdpo", "SD 1.5 on HPDv2's 3200 prompts, five rewards, ties one half", "AIDC-AI/Diffusion-SDPO, test_sd15.py",
            dict(baseline="stable-diffusion-v1-5/stable-diffusion-v1-5", prompts="hpdv2",
                 rewards=("pickscore", "hpsv2.1", "aesthetic", "clip-l14", "imagereward"), guidance_scale=8.5, num_inference_steps=50,
                 seed=0, same_noise=True),
            quirks=(
                "its 'cfg 7.5' is cond + 7.5 (cond - uncond), which diffusers calls guidance_scale 8.5",
                "the seed is set anew for every prompt at batch 1, so all prompts start from the same noise (--same-noise)",
            ),
            unverified="which CLIP backbone; its sampler is Euler, here it is the pipeline's own",
        ),
        Protocol(
            "paper/spo", "SD 1.5 on Pick-a-Pic prompts, 20 steps, seed 42", "Kwai-Kolors/LPO, evaluation/general_score_pap_val.py",
            dict(baseline="stable-diffusion-v1-5/stable-diffusion-v1-5", prompts="pickapic-v2-test",
                 rewards=("pickscore", "hpsv2.1", "imagereward", "aesthetic"), guidance_scale=7.5, num_inference_steps=20, seed=42),
            quirks=(
                "four pictures a prompt are drawn and only the first is scored: here one is drawn",
                "base and DPO use guidance 7.5, SPO and LPO 5.0, so models are not compared alike: --guidance-scale sets one for all",
            ),
            unverified="its prompts are Pick-a-Pic v1's validation_unique (500), which is not at hand: v2's test prompts stand in; its "
            "sampler is DDIM, here it is the pipeline's own",
        ),
    ]
}  # fmt: skip


def get(name: str) -> Protocol:
    """The protocol of a name. Raises ValueError with the nearest names for another."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, n=2, cutoff=0.5) or list(PROTOCOLS)
        raise ValueError(f"unknown preset {name!r}; did you mean {' or '.join(near)}?")
    return PROTOCOLS[name]
