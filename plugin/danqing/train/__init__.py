"""Training recipes: `painter` (the GPT of a painter) and `vqgan` (its first stage), one readable loop each.

    from danqing.train.painter import PainterOptions, train_painter
    train_painter(PainterOptions(data="train.tsv", model="pai-painter-base-zh", output="out"))
"""
