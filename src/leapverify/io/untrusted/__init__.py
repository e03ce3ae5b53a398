"""Reading what others wrote: limits, bounded readers, escapes."""
