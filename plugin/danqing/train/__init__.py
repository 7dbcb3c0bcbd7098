"""Training recipes, one readable loop each: `painter` (the GPT of a painter), `vqgan` (its first stage), `latent` (the
UNet of a chinese-ldm).

    from danqing.train.painter import PainterOptions, train_painter
    train_painter(PainterOptions(data="train.tsv", model="pai-painter-base-zh", output="out"))
"""
