"""The programs that Danqing runs inside of. Only ``danqing_autoload`` calls them, each when its program is there."""
