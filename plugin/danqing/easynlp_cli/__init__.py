"""EasyNLP's command line, `easynlp --mode=train|predict|evaluate`, over today's networks."""
