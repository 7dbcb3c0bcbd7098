"""What is published beside a converted folder: variants that run without Danqing."""
