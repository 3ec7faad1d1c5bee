"""How the restorer that comes with hairify is made: photographs, training, scores, pictures."""
