import numpy as np

from monai_lgg.head import head_box


def test_box_of_the_head_in_any_slice_and_sequence() -> None:
    image = np.zeros((2, 50, 60, 2))
    image[0, 10:30, 20:40, 0] = 100
    image[1, 15:35, 25:30, 1] = 100
    image[0, 48, 3, 1] = 100  # one speck: 1 of 60 and 1 of 50 pixels of its lines
    assert head_box(image, [(0, 300), (0, 300)]) == (slice(10, 35), slice(20, 40))


def test_dim_pixels_are_no_head() -> None:
    image = np.full((1, 8, 8), 29.0)
    image[0, 2:4, 3:6] = 31
    assert head_box(image, [(0, 300)]) == (slice(2, 4), slice(3, 6))


def test_without_a_head_all_is_taken() -> None:
    assert head_box(np.zeros((3, 5, 7, 2)), [(0, 0)] * 3) == (slice(0, 5), slice(0, 7))
