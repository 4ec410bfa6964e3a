"""DiT-MoE: a DiT whose feed-forward layers are mixtures of experts (arXiv:2407.11633), class-conditional, epsilon-prediction.

A folder is made with the stock pipeline, which takes this network as it is:

    DiTPipeline(transformer=DiTMoETransformer2DModel(...), vae=vae, scheduler=DDIMScheduler()).save_pretrained(folder)

and ``DiffusionPipeline.from_pretrained(folder)`` reads it wherever diffalign is installed.
"""

from diffusers import DiTTransformer2DModel, ModelMixin
from diffusers.configuration_utils import register_to_config

from diffalign.models.dit import DiT
from diffalign.models.moe import SparseMoE

__all__ = ["DiTMoE", "DiTMoETransformer2DModel", "ModelMixin"]  # diffusers looks for ModelMixin beside a class that is not its own


class DiTMoETransformer2DModel(DiTTransformer2DModel):
    """diffusers' DiT (positions, adaLN-zero blocks, output) with a ``SparseMoE`` as every block's feed-forward.

    Args:
        num_experts, num_experts_per_tok, num_shared_experts: E, k, and how many every token goes to.
        mlp_ratio: an expert's hidden width over the token's.
        balance_weight, balance_per_sample: of ``Routing.balance_loss``.
        The others are DiTTransformer2DModel's, and mean the same.
    Errors: ValueError for numbers of experts that do not fit.

    Deviates from feizc/DiT-MoE: diffusers embeds time and class in every block anew, where DiT-MoE does so once. Its checkpoints (pickles
    in a layout of their own) are not read.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = None,
        num_layers: int = 28,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        attention_bias: bool = True,
        sample_size: int = 32,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        num_embeds_ada_norm: int = 1000,
        upcast_attention: bool = False,
        norm_type: str = "ada_norm_zero",
        norm_elementwise_affine: bool = False,
        norm_eps: float = 1e-5,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        num_shared_experts: int = 2,
        mlp_ratio: float = 4.0,
        balance_weight: float = 0.01,
        balance_per_sample: bool = False,
    ):
        super().__init__(  # by name: diffusers takes what is passed by place for default values
            num_attention_heads=num_attention_heads, attention_head_dim=attention_head_dim, in_channels=in_channels,
            out_channels=out_channels, num_layers=num_layers, dropout=dropout, norm_num_groups=norm_num_groups,
            attention_bias=attention_bias, sample_size=sample_size, patch_size=patch_size, activation_fn=activation_fn,
            num_embeds_ada_norm=num_embeds_ada_norm, upcast_attention=upcast_attention, norm_type=norm_type,
            norm_elementwise_affine=norm_elementwise_affine, norm_eps=norm_eps,
        )  # fmt: skip
        for block in self.transformer_blocks:
            block.ff = SparseMoE(
                self.inner_dim, int(self.inner_dim * mlp_ratio), num_experts, num_experts_per_tok, num_shared_experts,
                balance_weight=balance_weight, balance_per_sample=balance_per_sample,
            )  # fmt: skip


class DiTMoE(DiT):
    """As ``DiT``. The balance loss of a forward pass is ``moe.recorded``'s; predictions are the same in training and evaluation mode.

    LoRA: "attention" is the attention's projections, "attention+ff" those and the experts' (shared ones too), "all-linear" also the
    routers. With adapters the balance loss still reaches every trained layer that a router's input depends on.
    """

    family = "dit_moe"
