"""The code that a self-contained painter brings along, as it lies in its repository; nothing of it imports Danqing."""
