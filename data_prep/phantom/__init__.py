"""Synthetic radiographs in the layout of the SIIM-ACR challenge.

  python -m data_prep.phantom --output_dir=data/phantom --num_images=600 \\
      --num_test_images=12 --prevalence=0.22 --seed=0

writes `dicom-images-train`, `dicom-images-test`, `train-rle.csv`,
`nih_id.csv` (image and patient) and `phantom.json` (how it was made). The same
seed gives the same bytes. They are for demonstrations and tests: nothing
learned from them holds for patients.
"""
