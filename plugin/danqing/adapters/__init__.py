"""What a stock Stable Diffusion pipeline can carry besides its weights: one module for each kind of addition."""
