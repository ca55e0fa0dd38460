"""Every text that we put into a model's mouth or ear: one file for each purpose, over one layout."""
