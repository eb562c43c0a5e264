"""From FASTA, BAM and audio files to byte stores, windows and splits."""
