"""Where the tumour's mean FLAIR lies, by patient: in the intensity range that training uses, and against the brain.

    python scripts/tumour_contrast.py DIR [PATIENT_PART...]

``in range`` is 0 at the volume's minimum and 1 at the top that intensities are clipped at; ``to median`` is the ratio
to the median of the voxels above a tenth of that range.
"""

import argparse

import numpy as np

from monai_lgg.cases import intensity_range, read_labels, read_patients
from monai_lgg.io.reader import CaseReader

FLAIR = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("patients", nargs="*", help="parts of names; default: all")
    args = parser.parse_args()
    print(f"{'patient':32s}{'in range':>10s}{'to median':>11s}")
    for patient in read_patients(args.directory):
        if args.patients and not any(part in patient.name for part in args.patients):
            continue
        volume, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
        flair, truth = volume[..., FLAIR].astype(float), read_labels(patient)
        low, high = intensity_range(flair)
        head = flair[flair > low + 0.1 * (high - low)]
        tumour = flair[truth].mean()
        ratio = (tumour - low) / (np.median(head) - low)
        print(f"{patient.name:32s}{(tumour - low) / (high - low):10.2f}{ratio:11.2f}")


if __name__ == "__main__":
    main()
