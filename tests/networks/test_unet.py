import torch
from monai.networks.nets import BasicUNet

from monai_lgg.networks.unet import UNet2d


def test_weights_are_exchangeable_with_basic_unet() -> None:
    features = (8, 8, 16, 16, 16, 8)
    theirs = BasicUNet(spatial_dims=2, in_channels=3, out_channels=1, features=features, norm="batch", act="relu")
    ours = UNet2d(3, 1, features=features)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 3, 33, 47)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image), theirs.eval()(image), rtol=0, atol=0)
