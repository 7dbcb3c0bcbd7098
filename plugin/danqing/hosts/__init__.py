"""The programs that Danqing runs inside of. Each module registers with one of them; only ``danqing_autoload`` calls them."""
