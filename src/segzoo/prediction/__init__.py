"""From files to masks: one pipeline, whatever computes."""
