"""Expected tensors of a checkpoint."""

from __future__ import annotations

from .config import SiglipConfig, TowerConfig


def expected_shapes(config: SiglipConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every required tensor, by transformers' names."""
    v, t = config.vision_config, config.text_config
    head, width = "vision_model.head.", v.hidden_size
    return {
        "logit_scale": (1,),
        "logit_bias": (1,),
        "vision_model.embeddings.patch_embedding.weight": (
            (width, 3 * v.patch_size**2) if v.naflex else (width, 3, v.patch_size, v.patch_size)
        ),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        "vision_model.embeddings.position_embedding.weight": (v.positions, width),
        **_layer_shapes("vision_model.", v),
        **_norm_shapes("vision_model.post_layernorm", width),
        f"{head}probe": (1, 1, width),
        f"{head}attention.in_proj_weight": (3 * width, width),
        f"{head}attention.in_proj_bias": (3 * width,),
        **_linear_shapes(f"{head}attention.out_proj", width, width),
        **_norm_shapes(f"{head}layernorm", width),
        **_linear_shapes(f"{head}mlp.fc1", width, v.intermediate_size),
        **_linear_shapes(f"{head}mlp.fc2", v.intermediate_size, width),
        "text_model.embeddings.token_embedding.weight": (t.vocab_size, t.hidden_size),
        "text_model.embeddings.position_embedding.weight": (t.max_position_embeddings, t.hidden_size),
        **_layer_shapes("text_model.", t),
        **_norm_shapes("text_model.final_layer_norm", t.hidden_size),
        **_linear_shapes("text_model.head", t.hidden_size, t.embedding_size),
    }


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer_shapes(tower: str, config: TowerConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    width, inner = config.hidden_size, config.intermediate_size
    for i in range(config.num_hidden_layers):
        layer = f"{tower}encoder.layers.{i}."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear_shapes(f"{layer}self_attn.{projection}", width, width)
        shapes |= _norm_shapes(f"{layer}layer_norm1", width) | _norm_shapes(f"{layer}layer_norm2", width)
        shapes |= _linear_shapes(f"{layer}mlp.fc1", width, inner) | _linear_shapes(f"{layer}mlp.fc2", inner, width)
    return shapes
