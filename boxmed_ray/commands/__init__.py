"""What the sub-commands of `boxmed` do, one file each."""
