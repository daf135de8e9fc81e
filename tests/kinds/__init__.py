"""Each kind of source, from its files to its entries and back."""
