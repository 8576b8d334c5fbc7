"""Architectures of torchvision, timm and transformers, and the layer that suits each.

`python docs/architecture_page.py` writes docs/architectures.md from this table.
"""

import inspect
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.architecture_glue import GLUE, ImageOfText


class Architecture(NamedTuple):
    """One architecture.

    Attributes:
        library (str): torchvision, timm or transformers.
        name (str): the model's name there, or its class.
        layer (str): the layer that is expected.
        shape (tuple[int, ...]): shape of the input that it is tried on; two numbers are an image
            with three channels, one a text of so many ids.
        options (dict): what makes it small.
        glue (str): what is wrapped around it, or its layout; of `GLUE`.
        masks (str): the glue that methods of masked inputs need beyond that.
        refused (str): what the error says where no layer is suggested; `layer` is then one that
            works if it is named.
    """

    library: str
    name: str
    layer: str
    shape: tuple[int, ...] = (128, 192)
    options: Mapping[str, Any] = MappingProxyType({})
    glue: str = ""
    masks: str = ""
    refused: str = ""

    @property
    def outcome(self) -> str:
        if self.refused:
            return "refused"
        return "glue" if self.glue else "works"

    @property
    def id(self) -> str:
        return f"{self.library}-{self.name}"

    def example(self) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        if len(self.shape) == 1:
            return torch.randint(3, 50, (1, *self.shape), generator=generator)
        shape = (1, 3, *self.shape) if len(self.shape) == 2 else self.shape
        return torch.randn(shape, generator=generator)

    def make(self) -> nn.Module:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = globals()[f"_{self.library}"](self.name, dict(self.options))
        glue = GLUE.get(self.glue)
        if glue is ImageOfText:
            model = ImageOfText(model, torch.arange(3, 10)[None])
        elif isinstance(glue, type):
            model = glue(model)
        return _settled(model.eval(), self.example())

    @property
    def layout(self) -> Any:
        glue = GLUE.get(self.glue)
        return glue if isinstance(glue, tuple) else None


def _settled(model: nn.Module, example: Tensor) -> nn.Module:
    """Let what is untrained keep apart where things are, as training does.

    Batch norms see noise, since signals vanish or explode otherwise. Attention with a bias for
    every distance looks near: with none it takes all of its input alike.
    """
    for module in model.modules():
        biases = getattr(module, "attention_biases", None)
        if isinstance(biases, nn.Parameter):
            away = torch.arange(round(biases.shape[1] ** 0.5))
            with torch.no_grad():
                biases.copy_(-20.0 * (away[:, None] + away).flatten())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(torch.randn(2, *example.shape[1:]))
    return model.eval()


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    takes = inspect.signature(models.get_model_builder(name)).parameters
    backbone = {"weights_backbone": None} if "weights_backbone" in takes else {}
    return models.get_model(name, weights=None, num_classes=10, **backbone, **options)


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10, **options)


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    for key, value in options.items():
        if isinstance(value, tuple) and isinstance(value[0], str):
            kind, settings = value
            options = options | {key: getattr(transformers, kind)(**settings)}
    model = getattr(transformers, name)
    return model(model.config_class(**options))


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "num_labels": 5,
}
VIT = SMALL | {"image_size": (64, 96), "patch_size": 8}
SQUARE_VIT = SMALL | {"image_size": 64, "patch_size": 8}
CONVNET = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
    "depths": [1, 1, 1, 1],
    "num_labels": 5,
}
PYRAMID = {
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "num_labels": 5,
}
WAVE = SMALL | {
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
TEXT = SMALL | {"vocab_size": 50}
PATCHES = {"img_size": (64, 96)}
BRANCHES = "in branches"
# Untrained, deep convolutions on small images see all of it alike.
WIDE = (256, 384)


def _rows(library: str, *rows: tuple[Any, ...]) -> list[Architecture]:
    return [Architecture(library, *row) for row in rows]


TABLE = [
    *_rows(
        "torchvision",
        ("resnet18", "layer4"),
        ("resnet50", "layer4", WIDE),
        ("resnext50_32x4d", "layer4", WIDE),
        ("vgg11", "features.19"),
        ("vgg16", "features.29"),
        ("vgg16_bn", "features.42"),
        ("alexnet", "features.11", (128, 256)),
        ("densenet121", "features"),
        ("googlenet", "inception5b", WIDE, {"init_weights": False}),
        ("inception_v3", "Mixed_7c", WIDE, {"init_weights": False}),
        ("squeezenet1_0", "features"),
        ("mobilenet_v2", "features", WIDE),
        ("mobilenet_v3_large", "features", WIDE),
        ("mobilenet_v3_small", "features", WIDE),
        ("mnasnet0_5", "layers", WIDE),
        ("efficientnet_b0", "features", WIDE),
        ("efficientnet_v2_s", "features", WIDE),
        ("regnet_y_400mf", "trunk_output", WIDE),
        ("shufflenet_v2_x1_0", "conv5", WIDE),
        ("convnext_tiny", "features"),
        ("swin_t", "permute"),
        ("swin_v2_t", "permute"),
        ("maxvit_t", "blocks.3", (224, 224)),
        ("vit_b_32", "encoder.layers.encoder_layer_11.ln_1", (224, 224)),
        ("fcn_resnet50", "classifier.2", (96, 128), {"aux_loss": True}),
        ("deeplabv3_resnet50", "classifier.3", (96, 128), {"aux_loss": True}),
        ("deeplabv3_mobilenet_v3_large", "classifier.3", WIDE, {"aux_loss": True}),
        ("lraspp_mobilenet_v3_large", "classifier.cbr", WIDE, {}, "", "", BRANCHES),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", "backbone.body.16", WIDE,
         {"box_score_thresh": 0.0, "min_size": 256}, "detections", "", "detections"),
        ("retinanet_resnet50_fpn", "backbone.body.layer4", (128, 192),
         {"score_thresh": 0.0, "min_size": 128}, "detections", "", "detections"),
        ("ssdlite320_mobilenet_v3_large", "backbone.features.0", (320, 320),
         {"score_thresh": 0.0}, "detections", "", "detections"),
        ("r3d_18", "layer4", (1, 3, 4, 96, 128)),
        ("mc3_18", "layer4", (1, 3, 4, 96, 128)),
        ("r2plus1d_18", "layer4", (1, 3, 4, 96, 128)),
        ("swin3d_t", "norm", (1, 3, 8, 128, 192)),
    ),
    *_rows(
        "timm",
        ("resnet26d", "layer4"),
        ("seresnet18", "layer4"),
        ("ecaresnet26t", "layer4"),
        ("skresnet18", "layer4", WIDE),
        ("resnest14d", "layer4"),
        ("res2net50_26w_4s", "layer4"),
        ("resnetv2_50", "norm"),
        ("dla34", "level5"),
        ("dpn68", "features"),
        ("hrnet_w18_small", "final_layer"),
        ("efficientnet_b0", "bn2", WIDE),
        ("tf_efficientnetv2_b0", "bn2", WIDE),
        ("mobilenetv2_050", "bn2", WIDE),
        ("mnasnet_050", "bn2", WIDE),
        ("fbnetc_100", "bn2", WIDE),
        ("mixnet_s", "bn2", WIDE),
        ("tinynet_e", "bn2", WIDE),
        ("mobilenetv3_small_050", "blocks", WIDE),
        ("mobilenetv4_conv_small", "blocks", WIDE),
        ("lcnet_050", "blocks", WIDE),
        ("ghostnet_050", "blocks"),
        ("ghostnetv2_100", "blocks", WIDE),
        ("regnetx_002", "s4"),
        ("regnety_002", "s4"),
        ("rexnet_100", "features", WIDE),
        ("repvgg_a0", "stages", WIDE),
        ("mobileone_s0", "stages", WIDE),
        ("repvit_m0_9", "stages", WIDE),
        ("fastvit_t8", "final_conv"),
        ("mobilevit_xxs", "final_conv"),
        ("mobilevitv2_050", "stages", WIDE),
        ("convnext_atto", "stages"),
        ("convnextv2_atto", "stages"),
        ("inception_next_atto", "stages"),
        ("inception_v4", "features", WIDE),
        ("inception_resnet_v2", "conv2d_7b", (192, 256)),
        ("xception41", "blocks", WIDE),
        ("cspresnet50", "stages"),
        ("cspdarknet53", "stages"),
        ("tresnet_m", "body"),
        ("nfnet_f0", "final_act"),
        ("eca_nfnet_l0", "final_act"),
        ("hgnetv2_b0", "stages"),
        ("starnet_s1", "norm"),
        ("fasternet_t0", "stages"),
        ("mambaout_femto", "stages"),
        ("poolformer_s12", "stages"),
        ("caformer_s18", "stages"),
        ("edgenext_xx_small", "stages"),
        ("efficientvit_b0", "head.in_conv", WIDE),
        ("pvt_v2_b0", "stages"),
        ("davit_tiny", "stages"),
        ("focalnet_tiny_srf", "norm"),
        ("gcvit_xxtiny", "stages", (224, 224)),
        ("nextvit_small", "norm"),
        ("tiny_vit_5m_224", "stages", (224, 224)),
        ("visformer_tiny", "norm", (224, 224)),
        ("coatnet_nano_rw_224", "norm", (224, 224)),
        ("maxvit_rmlp_pico_rw_256", "norm", (256, 256)),
        ("nest_tiny_jx", "norm", (224, 224)),
        ("sequencer2d_s", "norm", (128, 192)),
        ("swin_tiny_patch4_window7_224", "norm", (128, 192), {"img_size": (128, 192)}),
        ("swinv2_tiny_window8_256", "norm", (128, 192), {"img_size": (128, 192)}),
        ("vit_tiny_patch16_224", "blocks.11.norm1", (64, 96), PATCHES),
        ("deit_tiny_patch16_224", "blocks.11.norm1", (64, 96), PATCHES),
        ("deit_tiny_distilled_patch16_224", "blocks.11.norm1", (64, 96), PATCHES),
        ("deit3_small_patch16_224", "blocks.11.norm1", (64, 96), PATCHES),
        ("vit_small_patch14_dinov2", "blocks.11.norm1", (70, 98), {"img_size": (70, 98)}),
        ("vit_small_patch14_reg4_dinov2", "blocks.11.norm1", (70, 98), {"img_size": (70, 98)}),
        ("vit_small_patch16_dinov3", "blocks.11.norm1", (64, 96), PATCHES),
        ("vit_base_patch16_siglip_224", "blocks.2.norm1", (64, 96), PATCHES | {"depth": 3}),
        ("vit_little_patch16_reg4_gap_256", "blocks.13.norm1", (64, 96), PATCHES),
        ("vit_tiny_r_s16_p8_224", "blocks.11.norm1", (224, 224)),
        ("beit_base_patch16_224", "blocks.2.norm1", (64, 96), PATCHES | {"depth": 3}),
        ("eva02_tiny_patch14_224", "blocks.11.norm1", (56, 84), {"img_size": (56, 84)}),
        ("cait_xxs24_224", "blocks_token_only.1.norm1", (64, 96), PATCHES),
        ("xcit_nano_12_p16_224", "cls_attn_blocks.1.norm1", (64, 96)),
        ("convit_tiny", "blocks.11.norm1", (224, 224)),
        ("flexivit_small", "blocks.11.norm1", (64, 96), PATCHES),
        ("pit_ti_224", "transformers.2.blocks.3.norm1", (224, 224)),
        ("tnt_s_patch16_224", "blocks.11.norm_out", (224, 224)),
        ("mixer_s32_224", "blocks.7.norm1", (128, 192), {"img_size": (128, 192)}),
        ("gmlp_s16_224", "blocks.29.norm", (64, 96), PATCHES),
        ("resmlp_12_224", "blocks.11.norm1", (64, 96), PATCHES),
        ("levit_128s", "stages", (224, 224)),
        ("levit_conv_128s", "stages", (224, 224)),
        ("volo_d1_224", "post_network.1.norm1", (224, 224)),
        ("twins_pcpvt_small", "blocks.3.2.norm1", (224, 224)),
        ("twins_svt_small", "blocks.3.3.norm1", (224, 224)),
        ("coat_lite_tiny", "serial_blocks4.1.norm1", (224, 224)),
        ("efficientformer_l1", "stages.3.blocks.4.norm1", (224, 224)),
        ("mvitv2_tiny", "stages.3.blocks.1.norm1", (224, 224)),
        ("hiera_tiny_224", "blocks.11.norm1", (224, 224)),
        ("crossvit_9_240", "blocks.2.blocks.1.2.norm1", (240, 240), {}, "", "", BRANCHES),
    ),
    *_rows(
        "transformers",
        ("ResNetForImageClassification", "resnet.encoder.stages.3", (128, 192), CONVNET),
        ("RegNetForImageClassification", "regnet.encoder.stages.3", (128, 192),
         CONVNET | {"groups_width": 8}),
        ("ConvNextForImageClassification", "convnext.encoder.stages.3", (128, 192), CONVNET),
        ("MobileNetV2ForImageClassification", "mobilenet_v2.conv_1x1", WIDE),
        ("MobileViTForImageClassification", "mobilevit.conv_1x1_exp", (128, 256),
         {"initializer_range": 0.3, "hidden_sizes": [16, 16, 16],
          "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32]}),
        ("PoolFormerForImageClassification", "norm", (128, 192),
         {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}),
        ("ViTForImageClassification", "vit.layers.2.layernorm_before", (64, 96), VIT),
        ("DeiTForImageClassification", "deit.layers.2.layernorm_before", (64, 96), VIT),
        ("DeiTForImageClassificationWithTeacher", "deit.layers.2.layernorm_before", (64, 96), VIT),
        ("BeitForImageClassification", "beit.layers.2.layernorm_before", (64, 64), SQUARE_VIT),
        ("Data2VecVisionForImageClassification",
         "data2vec_vision.encoder.layer.2.layernorm_before", (64, 64), SQUARE_VIT),
        ("Dinov2ForImageClassification", "dinov2.encoder.layer.2.norm1", (56, 84),
         SMALL | {"image_size": 56, "patch_size": 14}),
        ("Dinov2WithRegistersForImageClassification",
         "dinov2_with_registers.encoder.layer.2.norm1", (56, 84),
         SMALL | {"image_size": 56, "patch_size": 14, "num_register_tokens": 4}),
        ("ViTMSNForImageClassification", "vit.layers.2.layernorm_before", (64, 64), SQUARE_VIT),
        ("SiglipForImageClassification", "vision_model.encoder.layers.2.layer_norm1", (64, 64),
         {"vision_config": SQUARE_VIT}),
        ("CLIPForImageClassification", "vision_model.encoder.layers.2.layer_norm1", (64, 64),
         {"vision_config": SQUARE_VIT}),
        ("SwinForImageClassification", "swin.encoder.layers.1.blocks.0.layernorm_before", (64, 96),
         {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
          "image_size": (64, 96)}),
        ("Swinv2ForImageClassification", "swinv2.encoder.layers.1.blocks.0.layernorm_before",
         (64, 96),
         {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4,
          "image_size": (64, 96)}),
        ("FocalNetForImageClassification", "focalnet.encoder.stages.1.layers.0.norm1", (64, 96),
         {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "hidden_sizes": [16, 32],
          "focal_levels": [2, 2], "focal_windows": [3, 3]}),
        ("PvtForImageClassification", "pvt.encoder.block.3.1.layer_norm_1", (128, 128),
         PYRAMID | {"image_size": 128, "depths": [1, 1, 1, 2]}),
        ("PvtV2ForImageClassification", "pvt_v2.encoder.layers.3.blocks.0.layer_norm_1",
         (128, 192), PYRAMID | {"image_size": 128}),
        ("SegformerForImageClassification", "segformer.stages.3", (128, 192), PYRAMID),
        ("LevitForImageClassification", "levit.encoder.stages.2", (224, 224),
         {"initializer_range": 0.3, "image_size": 224, "hidden_sizes": [16, 32, 32],
          "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2], "key_dim": [8, 8, 8]}),
        ("HieraForImageClassification", "hiera.encoder.stages.1.layers.1.layernorm_before",
         (64, 64), {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 2],
                    "num_heads": [1, 2], "num_query_pool": 1}),
        ("SegformerForSemanticSegmentation", "decode_head.activation", (64, 96),
         PYRAMID | {"decoder_hidden_size": 16}),
        ("UperNetForSemanticSegmentation", "decode_head.fpn_bottleneck", (128, 192),
         {"hidden_size": 16, "backbone_config": ("ConvNextConfig", {
             "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1],
             "out_features": ["stage1", "stage2", "stage3", "stage4"]})}),
        ("MobileNetV2ForSemanticSegmentation", "segmentation_head.conv_projection", (256, 384),
         {"initializer_range": 0.3}),
        ("PerceiverForImageClassificationConvProcessing", "", (224, 224),
         {"num_latents": 16, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 1,
          "num_self_attention_heads": 2, "num_cross_attention_heads": 2}, "", "",
         "does not change most in that part"),
        ("DetrForObjectDetection", "model.encoder.layers.1.self_attn_layer_norm", (128, 192),
         {"num_labels": 5, "use_timm_backbone": False, "backbone": None,
          "use_pretrained_backbone": False, "d_model": 32, "encoder_layers": 2,
          "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
          "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 7,
          "backbone_config": ("ResNetConfig", CONVNET | {"out_features": ["stage4"]})},
         "", "", "not known to lie"),
        ("YolosForObjectDetection", "vit.encoder.layer.2.layernorm_before", (64, 96),
         VIT | {"image_size": [64, 96], "num_detection_tokens": 5}, "yolos", "",
         "not known to lie"),
        ("CLIPModel", "model.vision_model.encoder.layers.1.layer_norm1", (64, 64),
         {"text_config": TEXT, "vision_config": SQUARE_VIT | {"num_hidden_layers": 2}}, "texts"),
        ("VideoMAEForVideoClassification", "model.videomae.encoder.layer.2.layernorm_before",
         (1, 3, 8, 32, 48), VIT | {"image_size": (32, 48), "num_frames": 8}, "frames"),
        ("VivitForVideoClassification", "model.vivit.layers.2.layernorm_before",
         (1, 3, 8, 32, 32),
         SMALL | {"image_size": 32, "num_frames": 8, "tubelet_size": [2, 8, 8]}, "frames"),
        ("VJEPA2ForVideoClassification", "model.pooler.self_attention_layers.0.layer_norm1",
         (1, 3, 8, 32, 32),
         {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "crop_size": 32,
          "patch_size": 8, "frames_per_clip": 8, "num_pooler_layers": 1, "pred_hidden_size": 32,
          "pred_num_attention_heads": 4, "pred_num_hidden_layers": 1}, "frames"),
        ("TimesformerForVideoClassification",
         "timesformer.encoder.layer.1.layernorm_after", (1, 4, 3, 32, 48),
         SMALL | {"image_size": 32, "patch_size": 8, "num_frames": 4}, "timesformer", "frames",
         "not known to lie"),
        ("ASTForAudioClassification",
         "model.audio_spectrogram_transformer.layers.2.layernorm_before", (1, 1, 64, 96),
         SMALL | {"max_length": 96, "num_mel_bins": 64, "frequency_stride": 10,
                  "time_stride": 10}, "spectrogram"),
        ("Wav2Vec2ForSequenceClassification", "model.wav2vec2.encoder.layers.2.layer_norm",
         (1, 1, 4000), WAVE, "wave"),
        ("HubertForSequenceClassification", "model.hubert.encoder.layers.2.layer_norm",
         (1, 1, 4000), WAVE, "wave"),
        ("WhisperForAudioClassification", "encoder.layers.1.self_attn_layer_norm", (1, 16, 200),
         {"num_mel_bins": 16, "max_source_positions": 100, "d_model": 32, "encoder_layers": 2,
          "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_layers": 1,
          "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "classifier_proj_size": 16}),
        ("BertForSequenceClassification", "bert.encoder.layer.1", (12,), TEXT),
        ("DistilBertForSequenceClassification", "distilbert.transformer.layer.0", (12,),
         {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50}),
    ),
]  # fmt: skip
