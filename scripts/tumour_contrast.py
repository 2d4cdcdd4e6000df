"""Where the tumour's mean FLAIR lies, by patient: between the volume's minimum and its 99.5th percentile, and against
the median of the head, by which training scales.

    python scripts/tumour_contrast.py DIR [PATIENT_PART...]

``to percentile`` is 0 at the minimum and 1 at the 99.5th percentile of the voxels above it; ``to median`` is 0 at the
minimum and 1 at the head's median. Ends with the mean and the coefficient of variation (standard deviation / mean).
"""

import argparse

import numpy as np

from monai_lgg.cases import BRIGHT_PERCENTILE, TOP_MEDIANS, intensity_range, read_labels, read_patients
from monai_lgg.io.reader import CaseReader
from monai_lgg.report.examples import flair_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("patients", nargs="*", help="parts of names; default: all")
    args = parser.parse_args()
    print(f"{'patient':32s}{'to percentile':>15s}{'to median':>11s}")
    rows = []
    for patient in read_patients(args.directory):
        if args.patients and not any(part in patient.name for part in args.patients):
            continue
        volume, _ = CaseReader().get_data([str(item.image) for item in patient.slices])
        flair, truth = flair_of(volume).astype(float), read_labels(patient)
        if not truth.any():
            print(f"{patient.name:32s}      no tumour")
            continue
        low, high = intensity_range(flair)
        bright = np.percentile(flair[flair > low], BRIGHT_PERCENTILE)
        tumour = flair[truth].mean()
        rows.append(((tumour - low) / (bright - low), (tumour - low) / (high - low) * TOP_MEDIANS))
        print(f"{patient.name:32s}{rows[-1][0]:15.2f}{rows[-1][1]:11.2f}")
    mean, spread = np.mean(rows, axis=0), np.std(rows, axis=0)
    print(f"{'mean':32s}{mean[0]:15.2f}{mean[1]:11.2f}")
    print(f"{'coefficient of variation':32s}{spread[0] / mean[0]:15.2f}{spread[1] / mean[1]:11.2f}")


if __name__ == "__main__":
    main()
