"""What the tests share: a rig around one bridge, programs as child processes, proxies, and the folders of the project."""
