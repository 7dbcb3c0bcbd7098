"""The text encoder of chinese-ldm: a CLIP text transformer that hands the UNet one normalised vector.

EasyNLP's FrozenWukongCLIPTextEmbedder takes the state at [SEP], projects it, divides it by its length and repeats it;
the UNet attends to nothing else. As a ``CLIPTextModel`` it stands in a stock ``StableDiffusionPipeline``, which reads
the context as the first entry of the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from danqing_pack.errors import RequestError
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils.generic import ModelOutput

SEP = 102
"""The id of [SEP]: a constant in the original's encoder."""


class WukongTextConfig(CLIPTextConfig):
    """A CLIP text configuration with the original's constants, and how the pooled vector is handed on."""

    model_type = "danqing_wukong_text"

    layer_norm_eps: float | None = 1e-7
    hidden_act: str = "quick_gelu"
    pad_token_id: int | None = 0
    bos_token_id: int | None = 101
    eos_token_id: int | list[int] | None = 102
    normalize: bool = True
    n_repeat: int = 1


@dataclass
class WukongTextOutput(ModelOutput):
    """``context`` [B, n_repeat, projection_dim], ``pooled`` [B, width] and ``last_hidden_state`` [B, T, width]."""

    context: torch.FloatTensor | None = None
    pooled: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


class WukongTextEncoder(CLIPTextModel):
    """Pools at [SEP], projects, normalises if ``config.normalize``, repeats ``config.n_repeat`` times."""

    __module__ = "danqing.components"
    config_class = WukongTextConfig

    def __init__(self, config: WukongTextConfig) -> None:
        super().__init__(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim or config.hidden_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if module is getattr(self, "text_projection", None):
            nn.init.normal_(self.text_projection.weight, std=self.config.hidden_size**-0.5)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> WukongTextOutput | tuple[Any, ...]:
        """The context of each text.

        ``input_ids`` [B, T], each row with one [SEP]. ``attention_mask`` is accepted and left out:
        padding stands after [SEP], where no state that is used can see it, and the original knew no mask.

        Raises:
            RequestError: a row holds no [SEP].
        """
        if input_ids is None:
            raise RequestError("The text encoder was called without input_ids.")
        ends = torch.eq(input_ids, SEP)
        if not torch.compiler.is_compiling() and not bool(ends.any(-1).all()):
            raise RequestError(
                f"A row of input_ids holds no {SEP} ([SEP]), the position that the text encoder "
                "reads; tokenise with the tokenizer of the same folder."
            )
        states = super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)
        hidden = states.last_hidden_state
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), ends.int().argmax(-1).to(hidden.device)]
        vector = self.text_projection(pooled)
        if self.config.normalize:
            vector = vector / vector.norm(dim=1, keepdim=True)
        output = WukongTextOutput(
            context=vector[:, None].repeat(1, self.config.n_repeat, 1), pooled=pooled, last_hidden_state=hidden,
            hidden_states=states.hidden_states, attentions=states.attentions,
        )
        return output.to_tuple() if return_dict is False else output
