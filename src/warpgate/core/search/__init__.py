"""One run of the cascade, on either side: from the first sign of an attempt to its link or its failure."""
