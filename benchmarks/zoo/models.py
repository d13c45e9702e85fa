"""Which models are traced: of timm the smallest of each module, of transformers and torchvision one of each family."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

LARGEST_SQUARE = 384
ODD_HW = (229, 301)
"""No multiple of any stride."""
EVEN_HW = (192, 256)
"""For models that do not take the odd size."""

# By number of parameters, of those whose names sound small where a module has many.
_TIMM = """
    beit_base_patch16_224 eca_botnext26ts_256 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_atto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 efficientnet_lite0 efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224
    fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0
    hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3
    inception_v4 lcnetv2_small levit_128s lowformer_b0 mambaout_femto maxvit_pico_rw_256 poolformerv2_s12
    gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap
    nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny
    regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet18 resnetv2_18 rexnet_100 selecsls42
    legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small
    vgg11 visformer_tiny flexivit_small vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224
    vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
"""

_TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x0_5
    squeezenet1_0 swin_t swin_v2_t vgg11 vit_b_32 wide_resnet50_2
    fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 fasterrcnn_mobilenet_v3_large_fpn
    fasterrcnn_mobilenet_v3_large_320_fpn maskrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 keypointrcnn_resnet50_fpn
    retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn ssd300_vgg16 ssdlite320_mobilenet_v3_large
    fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large
    r3d_18 mc3_18 r2plus1d_18 s3d swin3d_t mvit_v1_b mvit_v2_s raft_small quantized_resnet18
"""

_TRANSFORMERS = """
    beit bit convnext convnextv2 dinov2 dinov2_with_registers dinov3_convnext dinov3_vit focalnet hgnet_v2 hiera
    lw_detr_vit maskformer-swin pixio pp_lcnet pp_lcnet_v3 pp_lcnet_v4 pvt_v2 resnet rf_detr_dinov2 rt_detr_resnet
    sapiens2 swin swinv2 textnet tipsv2 uvdoc_backbone vitdet vitpose_backbone
    clip siglip siglip2 chinese_clip altclip clipseg align blip owlvit flava llava internvl paligemma
    sam sam2 sam3 sam_hq
    detr conditional_detr dab-detr deformable_detr rt_detr rt_detr_v2 d_fine deimv2 lw_detr rf_detr table-transformer
    yolos grounding-dino mask2former maskformer oneformer upernet dpt depth_anything
    vit vit_mae vit_msn deit data2vec-vision segformer cvt levit pvt mobilevit mobilevitv2 mobilenet_v1 mobilenet_v2
    efficientnet regnet poolformer glpn swiftformer swin2sr
    videomae vjepa2 bert
"""


def models() -> list[str]:
    """The names that `roialign trace` takes."""
    import timm

    chosen = _TIMM.split()
    covered = {timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in chosen}
    later = [timm.list_models(module=module)[0] for module in timm.list_modules() if module not in covered]
    return [
        *(f"torchvision/{name}" for name in _TORCHVISION.split()),
        *(f"timm/{name}" for name in [*chosen, *later]),
        *(f"transformers/{name}" for name in _TRANSFORMERS.split()),
    ]


def sizes(model: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """The square that a model is configured for, of a bearable size, and an odd size."""
    package, _, name = model.partition("/")
    square = 224
    if package == "timm":
        import timm

        defaults = timm.get_pretrained_cfg(name)
        own = defaults.input_size[-1] if defaults is not None else square
        square = own if defaults is not None and defaults.fixed_input_size else min(own, LARGEST_SQUARE)
    elif name in _LARGER:
        square = _LARGER[name]
    return (square, square), ODD_HW


_LARGER = {
    "inception_v3": 299,
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "lw_detr": 384,
    "lw_detr_vit": 384,
    "rf_detr": 560,
    "swin2sr": 64,
}


def family(model: str) -> str:
    """The library that it comes from."""
    return model.partition("/")[0]


def selected(parts: Sequence[str]) -> Iterator[str]:
    """The models that have one of these in their names; all without any."""
    return (model for model in models() if not parts or any(part in model for part in parts))
