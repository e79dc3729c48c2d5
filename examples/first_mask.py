"""A mask of one picture, and what it holds: `python examples/first_mask.py RUN PICTURE MASK`."""

import sys

import cv2
import numpy as np

from segpipe import Segmenter


def main(run: str, picture: str, mask_file: str) -> None:
    """Segment, save, count."""
    image = cv2.imread(picture)
    if image is None:
        sys.exit(f"{picture} is no picture that OpenCV reads")
    with Segmenter.open(run) as segmenter:
        mask = segmenter(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))  # frames are RGB
        cv2.imwrite(mask_file, mask)
        for number, name in enumerate(segmenter.contract.classes):
            print(f"{name:12} {np.mean(mask == number):6.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:4])
