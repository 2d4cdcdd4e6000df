"""MONAI bundles that segment lower-grade glioma (the FLAIR abnormality) in brain MRI."""

__version__ = "0.1.0"
