"""EfficientNet as an image tower: sizes, and what its configuration refuses."""

from __future__ import annotations

import pytest
import torch

from mmkernels.models.config import ContrastiveConfig
from mmkernels.models.efficient_net import EfficientNetConfig, EfficientNetTower, StageConfig
from mmkernels.models.heads import ContrastiveHead
from mmkernels.models.presets.align import B0, scaled_channels, scaled_stages

SMALL = EfficientNetConfig((StageConfig(8, expand=1), StageConfig(16, blocks=2, kernel=5, stride=2)), stem=8, side=32)


def test_tokens_are_the_last_feature_map():
    torch.manual_seed(0)
    tower = EfficientNetTower(SMALL).eval()
    pictures = torch.rand(2, 3, 32, 32)
    tokens = tower(pictures)
    assert SMALL.patch == 4 and tokens.shape == (2, 64, SMALL.width)
    torch.testing.assert_close(tower.pool(tokens), tokens.mean(1), rtol=0, atol=0)
    changed = pictures.clone()
    changed[:, :, :, 16:] = 0
    assert (tower(changed) - tokens).abs().amax((0, 2)).max() > 1e-4


def test_the_family_grows_by_two_coefficients():
    """Wider in multiples of 8 that lose no more than a tenth, deeper upward; the published B7."""
    assert [scaled_channels(count, 1.4) for count in (16, 24, 40)] == [24, 32, 56]
    assert scaled_channels(24, 0.5) == 16, "12 would become 8, which is a third less"
    seven = scaled_stages(B0, 2.0, 3.1)
    assert [stage.channels for stage in seven] == [32, 48, 80, 160, 224, 384, 640]
    assert [stage.blocks for stage in seven] == [4, 7, 7, 10, 10, 13, 4]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: EfficientNetConfig(()), "stages must hold at least one, got none"),
        (lambda: EfficientNetConfig(SMALL.stages, side=3), "side must be at least 4, got 3"),
        (lambda: EfficientNetConfig(SMALL.stages, activation="mish"), "activation must be one of gelu"),
        (lambda: StageConfig(8, kernel=4), "kernel must be odd, got 4"),
        (lambda: StageConfig(8, stride=3), "stride must be one of 1, 2, got 3"),
        (lambda: StageConfig(0), "channels must be at least 1, got 0"),
        (lambda: ContrastiveHead(16, 8, ContrastiveConfig(12, project_image=False)),
         "width must be the image tower's where project_image is False, got 12"),
    ],
)  # fmt: skip
def test_refusals(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize(("largest", "scale"), [(None, 4.0), (3.0, 3.0)])
def test_a_temperature_divides(largest, scale):
    head = ContrastiveHead(16, 8, ContrastiveConfig(16, scale=4.0, largest_scale=largest, temperature=True))
    assert head.temperature.item() == 0.25 and head.scale.item() == scale
