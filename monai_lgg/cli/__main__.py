from monai_lgg.cli import main

main(prog_name="monai-lgg")
