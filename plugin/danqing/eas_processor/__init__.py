"""The python processor for PAI-EAS; importing it imports nothing heavy."""
