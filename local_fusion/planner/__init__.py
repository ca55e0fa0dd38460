"""Pure decisions about memory: facts about models and devices in, placements or refusals out."""
