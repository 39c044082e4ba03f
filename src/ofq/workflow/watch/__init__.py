"""How far the runs of a study are, while they are trained and afterwards."""
