"""What is wrong with a document: what reviewers found, and how that is told."""
