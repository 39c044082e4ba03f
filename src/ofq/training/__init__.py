"""Train teachers, quantized students and their annealing: one loop, three short steps around it."""
