"""What commands write for browsers: one file a page, which loads nothing and runs nothing."""
