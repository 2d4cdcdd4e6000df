import pytest
import torch
from monai.networks.nets import UNet

from monai_lgg.networks.resunet import ResUNet


def test_weights_are_exchangeable_with_monais_unet() -> None:
    theirs = UNet(2, 3, 1, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch")
    ours = ResUNet(3, 1, channels=(4, 8, 16))
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, 12, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=0, atol=0)


def test_the_multiple_follows_the_levels() -> None:
    with pytest.raises(ValueError, match=r"ResUNet got 12 x 18; .* multiples of 4; .* 12 x 20$"):
        ResUNet(3, 1, channels=(4, 8, 16))(torch.rand(1, 3, 12, 18))
    with pytest.raises(ValueError, match=r"ResUNet got 24 x 16; .* multiples of 16"):
        ResUNet(3, 1)(torch.rand(1, 3, 24, 16))
