"""EasyNLP's config.json for a chinese-ldm that never had one, from the sizes of its networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import FormatError
from .latent_diffusion import UNetDimensions
from .noise_schedules import NoiseSchedule
from .wukong import text_params

if TYPE_CHECKING:
    from .chinese_ldm import ChineseLDMDimensions


def legacy_config(size: ChineseLDMDimensions, schedule: NoiseSchedule) -> dict[str, Any]:
    """The whole file. Raises FormatError for heads that the original cannot have."""
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": {
        "beta_schedule": schedule.name, "linear_start": schedule.start, "linear_end": schedule.end,
        "timesteps": schedule.timesteps, **({"given_betas": list(schedule.given)} if schedule.given else {}),
        "num_timesteps_cond": 1, "log_every_t": 200, "first_stage_key": "image", "cond_stage_key": "caption",
        "image_size": size.unet.sample_size, "channels": size.unet.in_channels, "cond_stage_trainable": False,
        "conditioning_key": "crossattn", "monitor": "val/loss_simple_ema", "scale_factor": size.scale_factor,
        "use_ema": size.weights == "ema",
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
                        "params": _unet_params(size.unet)},
        "first_stage_config": {"target": "ldm.models.autoencoder.AutoencoderKL", "params": _vae_params(size)},
        "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenWukongCLIPTextEmbedder",
                              "params": text_params(size.text)},
    }}}


def _unet_params(size: UNetDimensions) -> dict[str, Any]:
    width = {channels // heads for channels, heads in zip(size.channels, size.heads, strict=True)}
    if len(set(size.heads)) == 1:
        heads = {"num_heads": size.heads[0]}
    elif len(width) == 1:
        heads = {"num_head_channels": width.pop()}
    else:
        raise FormatError(f"The UNet has {list(size.heads)} heads on levels of {list(size.channels)} channels; the "
                          "original knows one number of heads, or one width of a head.")
    return {
        "image_size": size.sample_size, "in_channels": size.in_channels, "out_channels": size.out_channels,
        "model_channels": size.channels[0], "num_res_blocks": size.layers_per_block,
        "attention_resolutions": [2**level for level, attends in enumerate(size.attention) if attends],
        "channel_mult": [channels // size.channels[0] for channels in size.channels], "use_spatial_transformer": True,
        "transformer_depth": size.depth, "context_dim": size.context, "use_checkpoint": False, "legacy": False, **heads,
    }


def _vae_params(size: ChineseLDMDimensions) -> dict[str, Any]:
    vae = size.autoencoder
    return {
        "embed_dim": vae.latent_channels, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
        "ddconfig": {
            "double_z": True, "z_channels": vae.latent_channels, "resolution": size.image_size,
            "in_channels": vae.in_channels, "out_ch": vae.out_channels, "ch": vae.channels[0],
            "ch_mult": [channels // vae.channels[0] for channels in vae.channels],
            "num_res_blocks": vae.layers_per_block, "dropout": 0.0,
            "attn_resolutions": [size.image_size // 2**level for level, attends in enumerate(vae.attention) if attends],
        },
    }
